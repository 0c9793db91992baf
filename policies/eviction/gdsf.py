"""GDSF: saved device seconds per byte, with ageing."""

from typing import ClassVar

from policies.eviction.base import Item, Key
from policies.eviction.ranked import Ranked


class GDSF(Ranked):
    """Keeps what saves most device time for its size, and forgets past merit as the cache turns over.

    Score = L + (1 + uses) x saved seconds / bytes (Cherkasova, "Improving WWW Proxies Performance with
    Greedy-Dual-Size-Frequency Caching Policy", 1998): L, the score of whoever was evicted last, is what a state
    must have earned since to be kept. A state that is no longer used is overtaken by newcomers, who start at L.
    Of equal scores the least recently used goes first.
    """

    name: ClassVar[str] = "gdsf"

    def __init__(self, budget: int) -> None:
        """See `EvictionPolicy`."""
        super().__init__(budget)
        self._floor = 0.0

    def _gain(self, item: Item) -> float:
        return item.saved_seconds / max(item.nbytes, 1)

    def _score(self, uses: int, gain: float) -> float:
        return self._floor + (1 + uses) * gain

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`; the least of all that leaves was evicted, and lifts the floor."""
        if key in self._held:
            least = self._surface()
            if least is not None and least.key == key:
                self._floor = max(self._floor, least.score)
        super().remove(key)
