"""LCBFU: least computationally beneficial and frequently used."""

from policies.eviction.base import EvictionPolicy, StateStats


class LCBFU(EvictionPolicy):
    """Keeps the states that saved the most steps so far.

    Score = f x K (Agarwal et al., "Approximate Caching for Efficiently Serving Text-to-Image Diffusion
    Models", NSDI '24): f counts the uses of this state, from 0; K is the share of steps it saves. As
    published it does not age: a former winner stays, and an unused newcomer goes first.
    """

    name = "lcbfu"

    def score(self, stats: StateStats) -> float:
        """Return uses x skip."""
        return stats.uses * stats.skip
