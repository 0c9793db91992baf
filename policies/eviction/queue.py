"""FIFO and LRU: one queue, the front goes first."""

from collections import OrderedDict
from collections.abc import Container
from typing import ClassVar, Literal

from policies.eviction.base import EvictionPolicy, Item, Key


class _Queue(EvictionPolicy):
    """States in a row; all operations take constant time (and `victim` one look at each spared state in front)."""

    def __init__(self, budget: int) -> None:
        """See `EvictionPolicy`."""
        super().__init__(budget)
        # Not a plain dict: there, finding the front gets slow as the front is deleted again and again.
        self._queue: OrderedDict[Key, None] = OrderedDict()

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        self._queue.setdefault(key)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        self._queue.pop(key, None)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        return next((key for key in self._queue if key not in spared), None)

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._queue)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._queue


class FIFO(_Queue):
    """Forgets the oldest state, used or not."""

    name: ClassVar[str] = "fifo"
    replay: ClassVar[Literal["use", "age"]] = "age"

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""


class LRU(_Queue):
    """Forgets the state whose last use lies furthest back; storing counts as a use."""

    name: ClassVar[str] = "lru"

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        if key in self._queue:
            self._queue.move_to_end(key)
