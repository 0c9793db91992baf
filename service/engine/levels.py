"""Noise levels, and the grid of levels a run walks through."""

import math
from dataclasses import dataclass

# Half precision's smallest positive number: diffusers' stand-in for a terminal alpha^2 of zero.
SMALLEST_ALPHA_SQUARED = 2.0**-24
# Two time values closer than this are the same noise level (discrete models count in whole training steps).
SAME_TIME = 0.5


@dataclass(frozen=True, slots=True)
class Level:
    """A noise level of the variance-preserving process: x_t = alpha * x0 + sigma * noise."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """ln(alpha^2 / sigma^2); a terminal alpha of zero counts as 2^-12, a sigma of zero gives infinity."""
        if self.sigma == 0.0:
            return math.inf
        return math.log((self.alpha**2 or SMALLEST_ALPHA_SQUARED) / self.sigma**2)

    @property
    def ratio(self) -> float:
        """Sigma / alpha, the sigma of variance-exploding samplers; a terminal alpha of zero counts as 2^-12."""
        return self.sigma / (self.alpha or math.sqrt(SMALLEST_ALPHA_SQUARED))

    @classmethod
    def of_ratio(cls, ratio: float) -> "Level":
        """The level at which sigma / alpha = `ratio`: the sigma of variance-exploding (Karras) samplers."""
        alpha = 1 / math.sqrt(1 + ratio * ratio)
        return cls(alpha, ratio * alpha)

    @classmethod
    def of_flow(cls, share: float) -> "Level":
        """The level of rectified flow's x = (1 - share) x0 + share * noise, rescaled to unit variance."""
        norm = math.hypot(1 - share, share)
        return cls((1 - share) / norm, share / norm)


@dataclass(frozen=True, slots=True)
class Grid:
    """What an N-step run walks through.

    Attributes:
        times: the model's time value at each of the N network evaluations, descending.
        levels: noise level at each of them and, last, the one the run ends at: N + 1.
        start: what the initial unit noise is multiplied by. Diffusers' Euler starts some spacings from sigma times
            noise instead of from a variance-preserving mixture.
    """

    times: tuple[float, ...]
    levels: tuple[Level, ...]
    start: float = 1.0
