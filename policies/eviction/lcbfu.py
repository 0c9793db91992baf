"""LCBFU: least computationally beneficial and frequently used."""

from typing import ClassVar, Literal

from policies.eviction.base import Item
from policies.eviction.ranked import Ranked


class LCBFU(Ranked):
    """Keeps the states that saved the most steps so far.

    Score = f x K (Agarwal et al., "Approximate Caching for Efficiently Serving Text-to-Image Diffusion
    Models", NSDI '24): f counts the uses of this state, from 0; K is the share of steps it saves. As
    published it does not age: a former winner stays, and an unused newcomer goes first. Of equal scores the
    oldest goes first.
    """

    name: ClassVar[str] = "lcbfu"
    replay: ClassVar[Literal["use", "age"]] = "age"

    def _gain(self, item: Item) -> float:
        return item.skip

    def _score(self, uses: int, gain: float) -> float:
        return uses * gain

    def _tie(self, now: int, born: int) -> int:
        return born
