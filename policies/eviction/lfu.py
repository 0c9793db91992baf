"""LFU: least frequently used."""

from typing import ClassVar

from policies.eviction.base import Item
from policies.eviction.ranked import Ranked


class LFU(Ranked):
    """Forgets the state with the fewest uses, however much each saved; of equals, the least recently used."""

    name: ClassVar[str] = "lfu"

    def _gain(self, item: Item) -> float:
        return 1.0

    def _score(self, uses: int, gain: float) -> float:
        return float(uses)
