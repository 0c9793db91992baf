"""What refused clients were promised: come back then, and you will be let in."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace

from policies.admission.base import Work

# A promise lapses so long after the time named: clients are late by their own clocks and the way here.
GRACE_SECONDS = 2.0
GRACE_SHARE = 0.1
# Weight of the newest client in the running share of those who come back.
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Promise:
    """One picture that was told to come back.

    Attributes:
        key: of the wish, equal when it is sent again.
        due: the time it was told.
        lapses: the time after which it holds no more.
        work: what it takes.
    """

    key: Hashable
    due: float
    lapses: float
    work: Work


class PromiseBook:
    """Keeps room for those who were told to come back, so that newcomers do not take it first.

    Without it, a time at which there would be room *if nobody else came* is no promise under overload: others
    do come. Room is kept by the share of clients that have been keeping such appointments of late, so clients that
    never return cost next to nothing. Times are on one clock, the caller's.

    Args:
        most: promises remembered; beyond that none is made.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: deque[Promise] = deque()
        self._returning = 1.0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def returning(self) -> float:
        """Share of clients that came back when told, a running mean."""
        return self._returning

    def works(self, now: float, before: float | None = None) -> tuple[Work, ...]:
        """Return the work to expect of those who may still come, weighted by how likely they do, soonest due first.

        Args:
            now: the time.
            before: only promises due before it; None = all.
        """
        self._lapse(now)
        share = self._returning
        wanted = [promise for promise in self._open if before is None or promise.due < before]
        return tuple(
            replace(one.work, steps=share * one.work.steps, decode_seconds=share * one.work.decode_seconds)
            for one in sorted(wanted, key=lambda promise: promise.due)
        )

    def find(self, key: Hashable, now: float) -> Promise | None:
        """Return the promise made for a wish that holds now or later, soonest due first; it is not used up."""
        self._lapse(now)
        return min((one for one in self._open if one.key == key), key=lambda one: one.due, default=None)

    def make(self, key: Hashable, work: Work, now: float, wait: float) -> None:
        """Promise room after `wait` seconds, if there is room in the book."""
        if len(self._open) < self._most:
            grace = GRACE_SECONDS + GRACE_SHARE * wait
            self._open.append(Promise(key, now + wait, now + wait + grace, work))

    def keep(self, promise: Promise) -> None:
        """Note that the client came back and was let in."""
        self._open.remove(promise)
        self._learn(came=True)

    def _lapse(self, now: float) -> None:
        for promise in [one for one in self._open if one.lapses < now]:
            self._open.remove(promise)
            self._learn(came=False)

    def _learn(self, *, came: bool) -> None:
        self._returning += SMOOTHING * (came - self._returning)
