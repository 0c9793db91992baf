"""LFU: least frequently used."""

from policies.eviction.base import EvictionPolicy, StateStats


class LFU(EvictionPolicy):
    """Forgets the state with the fewest uses, however much each use saved."""

    name = "lfu"

    def score(self, stats: StateStats) -> float:
        """Return the number of uses."""
        return float(stats.uses)
