"""An oracle: evicts what the future, which it is told, has least use for."""

from bisect import bisect_right
from collections.abc import Callable, Container, Mapping, Sequence
from typing import ClassVar

from policies.eviction.base import EvictionPolicy, Item, Key

_BATCH = 64


class Oracle(EvictionPolicy):
    """Belady's rule with benefits: keeps what saves most per byte and soonest, for comparison offline.

    Evicts the state with the least (saving per byte) / (time until its next use); those never used again go first,
    the oldest of them foremost. With equal savings and sizes it is Belady's algorithm, the optimum; with unequal ones
    it is a strong heuristic, as the optimum is NP-hard.

    A state's rank changes as time passes. It is found by looking at all states and taking the lowest `_BATCH` of them
    as the next victims, unless they are used meanwhile: eviction in O(n / batch) amortised, exact to within a batch.
    """

    name: ClassVar[str] = "oracle"

    def __init__(
        self,
        budget: int,
        future: Mapping[Key, Sequence[float]],
        saving: Callable[[Key, Item], float] | None = None,
        *,
        batch: int = _BATCH,
    ) -> None:
        """See `EvictionPolicy`.

        Args:
            budget: bytes the store may hold.
            future: for each state the times of its uses to come, sorted; states not in it are never used.
            saving: what a use of a state saves; None = its saved seconds.
            batch: victims chosen at a time; 1 = always the lowest.
        """
        super().__init__(budget)
        self._future = future
        self._saving = saving if saving is not None else lambda key, item: item.saved_seconds
        self._batch = batch
        self._gain: dict[Key, float] = {}
        self._queue: list[Key] = []
        self._now = float("-inf")

    def advance(self, now: float) -> None:
        """Tell the time; uses at `now` and before are past."""
        self._now = now

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self._gain:
            return
        self._gain[key] = self._saving(key, item) / max(item.nbytes, 1)
        if self._worth(key) == 0.0:
            self._queue.append(key)  # of no use to anybody: the next to go

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`; what is waiting to be evicted is judged anew."""
        if key in self._gain:
            self._queue = [other for other in self._queue if other != key]

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        if self._gain.pop(key, None) is not None and self._queue and self._queue[-1] == key:
            self._queue.pop()

    def _worth(self, key: Key) -> float:
        times = self._future.get(key, ())
        at = bisect_right(times, self._now)
        return 0.0 if at == len(times) else self._gain[key] / max(times[at] - self._now, 1e-9)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        while self._queue and self._queue[-1] not in self._gain:
            self._queue.pop()
        waiting = next((key for key in reversed(self._queue) if key in self._gain and key not in spared), None)
        if waiting is not None:
            return waiting
        ranked = sorted(self._gain, key=self._worth)
        self._queue = ranked[: self._batch][::-1]
        return next((key for key in ranked if key not in spared), None)

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._gain)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._gain
