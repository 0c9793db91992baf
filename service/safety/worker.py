"""Runs a checker's verdicts one after another; one that hangs is left behind, and another thread goes on."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread

from service.safety.base import SafetyVerdict

MOST_LOST = 4
"""Threads that hang; with so many no other is started until one of them comes back."""
_MEASURED = 16

Work = Callable[[], SafetyVerdict]


@dataclass(eq=False)
class _Hand:
    """A thread, and since when it is at its errand; None = it waits for one."""

    since: float | None = None
    lost: bool = False


@dataclass
class _Measured:
    """How long the last verdicts took, and when the last of them came."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_MEASURED))
    ended: float = 0.0


class Worker:
    """One thread for a checker, made when it is first needed; one that hangs keeps no process from ending.

    A verdict that takes longer than the patience is lost, and its thread with it: whoever waits behind it gets a new
    one. Since nobody knows then whether the next will hang too, that one is shown a picture nobody waits for, and
    until a verdict comes in time again the checker is not believed to be there.

    Args:
        patience: longest time for a verdict, in seconds.
        probe: asks for a verdict that nobody waits for.
    """

    def __init__(self, patience: float, probe: Work) -> None:
        self._patience = patience
        self._probe = probe
        self._errands: SimpleQueue[tuple[Future[SafetyVerdict], Work]] = SimpleQueue()
        self._lock = Lock()
        self._hand: _Hand | None = None
        self._lost = 0
        self._doubted = False
        self._measured = _Measured()

    def submit(self, work: Work) -> Future[SafetyVerdict]:
        """Do `work` behind what was submitted before; what is cancelled before its turn is left out."""
        future: Future[SafetyVerdict] = Future()
        self._errands.put((future, work))
        self.look()
        return future

    def look(self) -> None:
        """Replace the thread if it hangs, or make it if there is none."""
        with self._lock:
            hand = self._hand
            if hand is not None and hand.since is not None and self._left(hand.since) <= 0:
                hand.lost = self._doubted = True
                self._lost += 1
                self._hand = None
            if self._hand is None and self._lost < MOST_LOST:
                if self._doubted:
                    self._errands.put((Future(), self._probe))
                self._hand = _Hand()
                Thread(target=self._run, args=(self._hand,), name="safety", daemon=True).start()

    @property
    def hangs(self) -> bool:
        """Whether the last verdict was lost."""
        self.look()
        return self._doubted

    @property
    def patience_left(self) -> float:
        """Seconds until the running verdict is lost; the whole patience where none is running."""
        with self._lock:
            since = None if self._hand is None else self._hand.since
            return self._patience if since is None else max(0.0, self._left(since))

    @property
    def verdict_seconds(self) -> float:
        """How long a verdict takes, by the last ones; 0 = unknown, or not measured for longer than the patience."""
        with self._lock:
            fresh = self._measured.seconds and self._left(self._measured.ended) > 0
            return statistics.median(self._measured.seconds) if fresh else 0.0

    @property
    def busy_seconds(self) -> float:
        """When the running verdict will be there, in seconds; one late by its kind may take as long again."""
        usual = self.verdict_seconds
        with self._lock:
            since = None if self._hand is None else self._hand.since
            if since is None:
                return 0.0
            so_far = time.monotonic() - since
            return usual - so_far if so_far < usual else max(0.0, min(so_far, self._left(since)))

    def _left(self, since: float) -> float:
        return since + self._patience - time.monotonic()

    def _run(self, hand: _Hand) -> None:
        while not hand.lost:
            future, work = self._errands.get()
            if not future.set_running_or_notify_cancel():
                continue
            with self._lock:
                hand.since = started = time.monotonic()
            try:
                verdict, error = work(), None
            except BaseException as raised:  # a checker that exits takes nothing with it
                error = raised if isinstance(raised, Exception) else RuntimeError(type(raised).__name__)
            self._note(hand, started)
            if error is None:
                future.set_result(verdict)
            else:
                future.set_exception(error)

    def _note(self, hand: _Hand, started: float) -> None:
        with self._lock:
            hand.since, ended = None, time.monotonic()
            if hand.lost:
                self._lost -= 1
            elif ended - started < self._patience:
                self._doubted = False
                self._measured.seconds.append(ended - started)
                self._measured.ended = ended
