"""The course of a replay: wait for the senders, time work that stands alone, then one run after the other.

Where Locust runs in one process, the sender is in it. Where a master has workers, each worker builds the same
schedule, shows its fingerprint, and is given every n-th request: none is sent twice, and none is lost unseen.
"""

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gevent.event import Event

from loadtest.outcomes import Outcome
from loadtest.player import Player
from loadtest.prompt_log import LogRow
from loadtest.schedule import Request
from loadtest.sending import Sender

log = logging.getLogger(__name__)

PROBE = "alone (for the SLO)"
PROBE_MODE = "off"
HEAD_START = 0.5


class ReplayStopped(Exception):
    """The replay cannot go on; the message says why in one line."""


class Cast(Protocol):
    """The processes that send.

    Attributes:
        senders: how many there are.
    """

    senders: int

    def wait_ready(self) -> None:
        """Return when all are ready.

        Raises:
            ReplayStopped: one cannot take part.
        """
        ...

    def begin(self, run: int, delay: float, stretch: float) -> None:
        """Let all start a run in `delay` seconds, all due times multiplied by `stretch`."""
        ...

    def check(self) -> None:
        """Look whether all are still there.

        Raises:
            ReplayStopped: one is gone.
        """
        ...


@dataclass
class Take:
    """One run as it comes in.

    Attributes:
        name: what reports call it.
        cache_mode: sent with every request.
        outcomes: so far, in any order.
        stalls: of the senders' clocks.
        finished: senders that have reported all of theirs.
    """

    name: str
    cache_mode: str
    outcomes: list[Outcome] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    finished: int = 0


class Conductor:
    """Leads a replay.

    Args:
        schedule: all requests.
        takes: the runs, in order.
        cast: who sends.
        sender: sends the requests that stand alone, or None where they were not asked for.
        probes: how many of each class of work.
        load: if given, the arrivals are stretched to this many seconds of work (as it takes alone) per second.
        ended: called at the end with the reason it ended early, or None.
    """

    def __init__(
        self,
        schedule: Sequence[Request],
        takes: list[Take],
        cast: Cast,
        sender: Sender | None,
        probes: int,
        load: float | None,
        ended: Callable[[str | None], None],
    ) -> None:
        self.takes = takes
        self.standalone: dict[str, list[float]] = {}
        self._schedule = schedule
        self._cast = cast
        self._sender = sender
        self._probes = probes
        self._load = load
        self._ended = ended
        self._news = Event()

    def conduct(self) -> None:
        """Lead the replay from start to end."""
        try:
            self._cast.wait_ready()
            if self._sender is not None:
                self._measure_alone(self._sender)
            for number in range(len(self.takes)):
                self._play(number)
        except ReplayStopped as stopped:
            self._ended(str(stopped))
        else:
            self._ended(None)

    def note(self, run: int, outcomes: Sequence[Outcome]) -> None:
        """Take what came of some requests."""
        self.takes[run].outcomes += outcomes

    def finish(self, run: int, stalls: Sequence[float]) -> None:
        """Take that a sender has reported all of its share, and how late its clock rang."""
        self.takes[run].stalls += stalls
        self.takes[run].finished += 1
        self._news.set()

    @property
    def stretch(self) -> float:
        """What due times are multiplied by."""
        if self._load is None:
            return 1.0
        alone = {asked: statistics.median(times) for asked, times in self.standalone.items()}
        return stretch_for(self._schedule, alone, self._load)

    def _play(self, number: int) -> None:
        take = self.takes[number]
        log.info("%s run: %d requests, cache mode %s", take.name, len(self._schedule), take.cache_mode)
        self._cast.begin(number, HEAD_START, self.stretch)
        while take.finished < self._cast.senders:
            self._news.wait(1.0)
            self._news.clear()
            self._cast.check()

    def _measure_alone(self, sender: Sender) -> None:
        for request in self._classes():
            times = []
            for index in range(self._probes + 1):
                outcome = sender.send(request, PROBE)
                if outcome.error is not None:
                    raise ReplayStopped(f"a request that stood alone failed ({request.asked}): {outcome.error}")
                if index:  # the first one warms up
                    times.append(outcome.latency)
            self.standalone[request.asked] = times
            log.info("%s: %.3f s alone", request.asked, statistics.median(times))

    def _classes(self) -> list[Request]:
        """One request for each class of work; a prompt of its own, since the log's may be private or refused."""
        distinct = {one.asked: one for one in reversed(self._schedule)}
        return [probe_for(one) for _, one in sorted(distinct.items())]


def stretch_for(schedule: Sequence[Request], alone: Mapping[str, float], load: float) -> float:
    """Return the factor on due times at which `load` seconds of work fall due per second.

    Args:
        schedule: open loop, in order.
        alone: seconds of each class of work.
        load: above 0.
    """
    work = sum(alone[one.asked] for one in schedule)
    seconds = schedule[-1].due or 0.0
    return work / load / seconds if seconds > 0 else 1.0


def probe_for(request: Request) -> Request:
    """Return a request for the same work, which can be sent at any time."""
    row = LogRow(0, "a red ball on a table", seed=1)
    return Request(-1, row, None, request.tenant, request.size, request.steps)


class LocalCast:
    """The sender is in this process."""

    def __init__(self) -> None:
        self.senders = 1
        self.arrived = Event()
        self.player: Player | None = None

    def wait_ready(self) -> None:
        """Return when the first user is there."""
        self.arrived.wait()

    def begin(self, run: int, delay: float, stretch: float) -> None:
        """Let the player start a run."""
        if self.player is not None:
            self.player.begin(run, delay, stretch)

    def check(self) -> None:
        """This process is there."""
