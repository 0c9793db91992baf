"""FIFO: first in, first out."""

from policies.eviction.base import EvictionPolicy, StateStats


class FIFO(EvictionPolicy):
    """Forgets the oldest state, used or not."""

    name = "fifo"

    def score(self, stats: StateStats) -> float:
        """Return the logical time it was stored."""
        return float(stats.created)
