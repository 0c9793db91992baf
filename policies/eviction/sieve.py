"""SIEVE: a queue that a hand goes through, sparing what was used since it last passed."""

from collections import OrderedDict
from collections.abc import Container
from typing import ClassVar, Literal

from policies.eviction.base import EvictionPolicy, Item, Key


class Sieve(EvictionPolicy):
    """Evicts the next state in the hand's way that was not used since the hand passed it.

    Zhang et al., "SIEVE is Simpler than LRU", NSDI '24. The hand goes from the oldest state to the newest and
    starts over; a used state it meets loses its mark and keeps its place. The hand parts the queue in two, those
    it has passed and those ahead, so two ordered dictionaries are the whole structure.
    """

    name: ClassVar[str] = "sieve"
    replay: ClassVar[Literal["use", "age"]] = "age"

    def __init__(self, budget: int) -> None:
        """See `EvictionPolicy`."""
        super().__init__(budget)
        self._passed: OrderedDict[Key, bool] = OrderedDict()
        self._ahead: OrderedDict[Key, bool] = OrderedDict()

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key not in self:
            self._ahead[key] = uses > 0

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        for part in (self._ahead, self._passed):
            if key in part:
                part[key] = True

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        self._passed.pop(key, None)
        self._ahead.pop(key, None)
        self._turn()

    def _turn(self) -> None:
        """Let the hand start over once it is through, before anybody joins behind it."""
        if not self._ahead:
            self._ahead, self._passed = self._passed, self._ahead

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        for _ in range(2 * len(self) + 1):  # two rounds: one may only take marks away
            key = next(iter(self._ahead), None)
            if key is None:
                return None
            if not self._ahead[key] and key not in spared:
                return key
            del self._ahead[key]
            self._passed[key] = False
            self._turn()
        return None

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._ahead) + len(self._passed)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._ahead or key in self._passed
