"""From one strength to a method's own parameters."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from policies.features.base import RecipeError

ANCHORS = (0.25, 0.5, 0.75, 1.0)
"""The strengths at which every method says what its parameters are."""

Scale = Literal["integer", "linear", "geometric"]


@dataclass(frozen=True, slots=True)
class Knob:
    """One parameter of a method.

    Attributes:
        name: as in responses and documents.
        at_anchors: its values at strengths 0.25, 0.5, 0.75 and 1.
        scale: how it runs between them; "integer" is linear and rounded.
    """

    name: str
    at_anchors: tuple[float, float, float, float]
    scale: Scale = "integer"

    def at(self, strength: float) -> float:
        """Return the value at a strength; below 0.25 that of 0.25."""
        if strength <= ANCHORS[0]:
            return self.at_anchors[0]
        upper = bisect_left(ANCHORS, strength)
        share = (strength - ANCHORS[upper - 1]) / (ANCHORS[upper] - ANCHORS[upper - 1])
        low, high = self.at_anchors[upper - 1], self.at_anchors[upper]
        if self.scale == "geometric":
            return float(low ** (1 - share) * high**share)
        value = low + share * (high - low)
        return float(math.floor(value + 0.5)) if self.scale == "integer" else value


def check_strength(strength: float) -> None:
    """Refuse what is not in (0, 1].

    Raises:
        RecipeError: it is not.
    """
    if not 0 < strength <= 1:
        raise RecipeError(f"the strength of feature caching lies above 0 and at most at 1, not at {strength:g}")
