"""One process's part of a replay: its share of the schedule, sent run after run when the conductor says so."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from loadtest.outcomes import Outcome
from loadtest.schedule import Request

TICK = 0.1


class Clock:
    """Seconds since a run's start, which may lie ahead."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def restart(self, delay: float) -> None:
        """Let the run start in `delay` seconds."""
        self._start = time.perf_counter() + delay

    def now(self) -> float:
        """Return the seconds since the run's start; negative before it."""
        return time.perf_counter() - self._start


class Player:
    """Deals its share out to the users of its process; several users of a process share it.

    Args:
        share: the requests to send, in order.
        runs: how often: the cached run, and the control run.
        arrived: called once, when the first user is there.
        emit: called with run and outcome for every outcome.
        finished: called with run and the stalls of the process's clock when a run's last outcome is in.
    """

    def __init__(
        self,
        share: Sequence[Request],
        runs: int,
        *,
        arrived: Callable[[], None],
        emit: Callable[[int, Outcome], None],
        finished: Callable[[int, list[float]], None],
    ) -> None:
        self.clock = Clock()
        self._share = share
        self._begun = [Event() for _ in range(runs)]
        self._arrived = arrived
        self._emit = emit
        self._finished = finished
        self._lock = Semaphore()
        self._run = -1
        self._next = self._noted = 0
        self._stretch = 1.0
        self._users = 0
        self._stalls: list[float] = []
        self._watch: gevent.Greenlet | None = None

    def runs(self) -> Iterator[int]:
        """Yield each run when it begins. Every user iterates over this once."""
        self._users += 1
        if self._users == 1:
            self._arrived()
        for number, begun in enumerate(self._begun):
            begun.wait()
            yield number

    def begin(self, run: int, delay: float, stretch: float) -> None:
        """Start a run in `delay` seconds, due times multiplied by `stretch`; the one before must have finished."""
        self._run, self._next, self._noted, self._stalls = run, 0, 0, []
        self._stretch = stretch
        self.clock.restart(delay)
        self._watch = gevent.spawn(self._watch_clock)
        self._begun[run].set()
        if not self._share:
            self._end()

    def try_take(self, run: int) -> Request | None:
        """The next request of a run, or None when all are taken; a user that comes late must not mix runs up."""
        with self._lock:
            if run != self._run or self._next >= len(self._share):
                return None
            self._next += 1
            request = self._share[self._next - 1]
        return request if request.due is None else replace(request, due=request.due * self._stretch)

    def note(self, outcome: Outcome) -> None:
        """Take an outcome; the last one ends the run."""
        self._emit(self._run, outcome)
        self._noted += 1
        if self._noted == len(self._share):
            self._end()

    def stop(self) -> None:
        """Stop watching the clock."""
        if self._watch is not None:
            self._watch.kill(block=False)
            self._watch = None

    def _end(self) -> None:
        self.stop()
        self._finished(self._run, self._stalls)

    def _watch_clock(self) -> None:
        while True:
            before = time.perf_counter()
            gevent.sleep(TICK)
            self._stalls += stalls_of(time.perf_counter() - before - TICK)


def stalls_of(overshoot: float) -> list[float]:
    """What clocks due all through a stall would have seen, not only the one that happened to ring.

    One sample for each tick the stall swallowed: else a long stall would weigh as little as a short one.
    """
    return [overshoot - TICK * index for index in range(1 + int(max(0.0, overshoot) / TICK))]
