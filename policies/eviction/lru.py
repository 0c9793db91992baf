"""LRU: least recently used."""

from policies.eviction.base import EvictionPolicy, StateStats


class LRU(EvictionPolicy):
    """Forgets the state whose last use lies furthest back; storing counts as a use."""

    name = "lru"

    def score(self, stats: StateStats) -> float:
        """Return the logical time of the last use."""
        return float(stats.last_used)
