"""How long a joint step takes: a line through what the engine measured, a fixed part and a part per pixel."""

from dataclasses import dataclass

import numpy as np

# Weight that every older observation loses to a new one: about the last twenty count.
FORGETTING = 0.95
# Below this spread of the batches seen (relative), a fixed part cannot be told from one per pixel.
LEAST_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class StepPace:
    """Seconds of a joint step of so many pixels: `fixed` + `per_pixel` × pixels.

    On a CPU the fixed part is next to nothing; on a GPU it is why joint batches pay.
    """

    fixed: float = 0.0
    per_pixel: float = 0.0

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return self.fixed + self.per_pixel > 0

    def seconds(self, pixels: float) -> float:
        """Return the time of a joint step."""
        return self.fixed + self.per_pixel * pixels if pixels > 0 else 0.0


class PaceMeter:
    """Fits a `StepPace` by least squares with exponential forgetting."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)

    def observe(self, pixels: float, seconds: float) -> None:
        """Learn from a step, or the mean of several.

        Args:
            pixels: in the joint step.
            seconds: it took.
        """
        if pixels <= 0 or seconds <= 0:
            return
        self._sums = FORGETTING * self._sums + np.array([1.0, pixels, seconds, pixels**2, pixels * seconds])

    @property
    def pace(self) -> StepPace:
        """The line; without batches of different size to compare, nothing is taken to be fixed."""
        weight, *sums = self._sums.tolist()
        if not weight:
            return StepPace()
        x, y, xx, xy = (total / weight for total in sums)
        variance = xx - x * x
        if variance < (LEAST_SPREAD * x) ** 2:
            return StepPace(0.0, y / x)
        per_pixel = min(max((xy - x * y) / variance, 0.0), y / x)
        return StepPace(y - per_pixel * x, per_pixel)
