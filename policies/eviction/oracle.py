"""An oracle: evicts what the future, which it is told, has least use for."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import ClassVar

from policies.eviction.base import EvictionPolicy, Item, Key

_LEAST_BATCH = 64
_BATCHES = 50


class Oracle(EvictionPolicy):
    """Belady's rule with benefits: keeps what saves most per byte and soonest, for comparison offline.

    Evicts the state with the least (saving per byte) / (time until its next use); those never used again go first,
    the oldest of them foremost. With equal savings and sizes it is Belady's algorithm, the optimum; with unequal ones
    it is a strong heuristic, as the optimum is NP-hard.

    Ranks change as time passes. From time to time all states are looked at, and the lowest, 2 % by default, are the
    next victims unless they are used meanwhile: O(log n) amortised, and exact to within that share.
    """

    name: ClassVar[str] = "oracle"

    def __init__(
        self,
        budget: int,
        future: Mapping[Key, Sequence[float]],
        saving: Callable[[Key, Item], float] | None = None,
        *,
        batch: int | None = None,
    ) -> None:
        """See `EvictionPolicy`.

        Args:
            budget: bytes the store may hold.
            future: for each state the times of its uses to come, sorted; states not in it are never used.
            saving: what a use of a state saves; None = its saved seconds.
            batch: victims chosen at a time; 1 = always the lowest, None = 2 % of the states.
        """
        super().__init__(budget)
        self._future = future
        self._saving = saving if saving is not None else lambda key, item: item.saved_seconds
        self._batch = batch
        self._gain: dict[Key, float] = {}
        self._queue: OrderedDict[Key, None] = OrderedDict()  # next victims, the first to go first
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
            self._queue[key] = None  # of no use to anybody: the next to go
            self._queue.move_to_end(key, last=False)

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`; what is waiting to be evicted is judged anew."""
        self._queue.pop(key, None)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        self._gain.pop(key, None)
        self._queue.pop(key, None)

    def _worth(self, key: Key) -> float:
        times = self._future.get(key, ())
        at = bisect_right(times, self._now)
        return 0.0 if at == len(times) else self._gain[key] / max(times[at] - self._now, 1e-9)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        waiting = next((key for key in self._queue if key not in spared), None)
        if waiting is not None:
            return waiting
        ranked = sorted(self._gain, key=self._worth)
        self._queue = OrderedDict.fromkeys(ranked[: self._batch or max(_LEAST_BATCH, len(ranked) // _BATCHES)])
        return next((key for key in ranked if key not in spared), None)

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._gain)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._gain
