"""Policies whose decisions are known before a job starts.

All of them count in absolute steps of the full schedule, also for a job that enters at step K: two jobs of the same
method and N then compute at the same steps, whenever they entered. The entry itself is always computed, by
`StaticPolicy.plan`; `Interval`, `PowerSpaced`, `DecayingIntervals` and `Mask` pay no attention to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from policies.features.base import StaticPolicy

_EPSILON = 1e-9
"""Room for rounding where a share of the run has to become a whole step."""


def first_step_of(share: float, steps: int) -> int:
    """Return the first of `steps` steps that lies at or after a share of the run."""
    return math.ceil(share * steps - _EPSILON)


@dataclass(frozen=True)
class Always(StaticPolicy):
    """Computes every step: nothing is cached."""

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return True for every step."""
        return (True,) * steps


@dataclass(frozen=True)
class Interval(StaticPolicy):
    """Computes one step in `every`, and all steps outside a window.

    DeepCache's uniform schedule (arXiv 2312.00858); with a window that of PAB (arXiv 2408.12588) and FasterCache
    (arXiv 2410.19355), with a warm-up that of TaylorSeer (arXiv 2503.06923) and AB-Cache (arXiv 2504.10540).

    Attributes:
        every: steps from one compute to the next.
        start: share of the run at which reuse may begin.
        end: share of the run from which everything is computed again.
        warmup: first steps of the full schedule that are computed whatever the window.
        phase: a step at which an interval begins.
    """

    every: int
    start: float = 0.0
    end: float = 1.0
    warmup: int = 0
    phase: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"an interval takes at least one step, not {self.every}")

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return the window's complement and every `every`-th step."""
        begin = max(self.warmup, first_step_of(self.start, steps))
        end = first_step_of(self.end, steps)
        return tuple(not begin <= i < end or (i - self.phase) % self.every == 0 for i in range(steps))


@dataclass(frozen=True)
class PowerSpaced(StaticPolicy):
    """Computes ceil(N / every) steps, close together around a centre and ever wider apart with distance from it.

    DeepCache's non-uniform schedule (arXiv 2312.00858): computes are evenly spaced in the signed root, of order
    `power`, of the distance from the centre.

    Attributes:
        every: mean distance of computes in steps.
        centre: share of the run around which they are dense, in [0, 1]. The paper has c = 10 to 15 of 50 steps.
        power: 1 spaces them evenly; the paper has 1.2 to 1.4. Where so dense a centre would want a step twice, the
            largest smaller power that does not is taken, so that the number of computes holds.
    """

    every: int
    centre: float
    power: float

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.centre <= 1 or self.power < 1:
            raise ValueError(f"no schedule has interval {self.every}, centre {self.centre} and power {self.power}")

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return the schedule's computes; step 0 is one of them."""
        count = math.ceil(steps / self.every)
        computed = set(range(0, steps, self.every))
        for power in np.arange(self.power, 1.0 - _EPSILON, -0.02):
            found = self._places(steps, count, float(power))
            if len(found) == count:
                computed = found
                break
        return tuple(i in computed for i in range(steps))

    def _places(self, steps: int, count: int, power: float) -> set[int]:
        centre = self.centre * steps
        # One point more than needed: the last falls on N, behind the run.
        roots = np.linspace(-(centre ** (1 / power)), (steps - centre) ** (1 / power), count + 1)[:-1]
        places = np.sign(roots) * np.abs(roots) ** power + centre
        return {int(place) for place in np.floor(places + _EPSILON)}


@dataclass(frozen=True)
class DecayingIntervals(StaticPolicy):
    """Computes all early steps and then ever fewer: in the spirit of cache-dit's step masks, by a rule of our own.

    Compute number j of C lies at step max(j, floor(N j^2 / C^2)): intervals grow in proportion to the step, and
    where they would be shorter than a step, every step is computed. C / N is interpolated between the two given.

    Attributes:
        at_28: computes of a run of 28 steps.
        at_50: computes of a run of 50 steps.
    """

    at_28: float
    at_50: float

    def computes(self, steps: int) -> int:
        """Return C, in [1, N]."""
        share = float(np.interp(steps, (28, 50), (self.at_28 / 28, self.at_50 / 50)))
        return min(steps, max(1, math.floor(share * steps + 0.5)))

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return the C computes."""
        count = self.computes(steps)
        computed = {max(j, steps * j**2 // count**2) for j in range(count)}
        return tuple(i in computed for i in range(steps))


@dataclass(frozen=True)
class Mask(StaticPolicy):
    """Computes where it is told to: a schedule found by calibration.

    SmoothCache's greedy schedules (arXiv 2411.10510), CacheQuant's groups (arXiv 2503.01323).

    Attributes:
        flags: for every step whether it is computed.
        steps: N it was found for.
    """

    flags: tuple[bool, ...]
    steps: int

    def __post_init__(self) -> None:
        if len(self.flags) != self.steps:
            raise ValueError(f"a mask for {self.steps} steps cannot have {len(self.flags)} flags")

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return the flags.

        Raises:
            ValueError: the mask was found for another number of steps.
        """
        if steps != self.steps:
            raise ValueError(f"the mask is one for {self.steps} steps, not {steps}")
        return self.flags


@dataclass(frozen=True)
class MagnitudeRatio(StaticPolicy):
    """MagCache (arXiv 2506.09045): reuses while the features' magnitudes are known to change little.

    Let rho be the product of the ratios since the last compute and E the sum of |1 - rho| over the steps since: a
    step is reused while E <= threshold, for at most `max_skips` steps in a row. No request plays a part in it.

    Attributes:
        ratios: per step i of the calibrated run, the mean over tokens of |r_i| / |r_(i-1)| of what the blocks add.
        threshold: largest E.
        max_skips: most reuses in a row.
        retention: share of the full schedule that is computed first.
        never: steps of the calibrated run that are never reused; the authors exempt step 11 of FLUX's 28.
    """

    ratios: tuple[float, ...]
    threshold: float
    max_skips: int
    retention: float
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) <= 0:
            raise ValueError("magnitude ratios are above 0, one per step")

    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return the computes of a job that enters at `first_step`, where rho, E and the count start anew."""
        ratios, never = resampled_ratios(self.ratios, steps), self._never(steps)
        retained = round(self.retention * steps)
        flags, rho, error, skips = [True] * steps, 1.0, 0.0, 0
        for i in range(first_step + 1, steps):
            rho, skips = rho * ratios[i], skips + 1
            error += abs(1 - rho)
            reuse = i >= retained and i not in never and error <= self.threshold and skips <= self.max_skips
            flags[i] = not reuse
            if not reuse:
                rho, error, skips = 1.0, 0.0, 0
        return tuple(flags)

    def _never(self, steps: int) -> set[int]:
        stretch = (steps - 1) / max(len(self.ratios) - 1, 1)
        return {round(step * stretch) for step in self.never}


def resampled_ratios(ratios: Sequence[float], steps: int) -> tuple[float, ...]:
    """Return magnitude ratios for another number of steps.

    A longer stride takes the product of the ratios it spans and a shorter one the root, as if the magnitude changed
    evenly (in its logarithm) between calibrated steps: the change over the whole run stays what it was. Copying the
    nearest ratio instead would make it grow with the number of steps.

    Args:
        ratios: of the calibrated run; the first has no step before it and stays.
        steps: N wanted.
    """
    if steps == len(ratios):
        return tuple(ratios)
    magnitude = np.concatenate([[0.0], np.cumsum(np.log(ratios[1:]))])
    at = np.interp(np.linspace(0, len(ratios) - 1, steps), np.arange(len(ratios)), magnitude)
    return (ratios[0], *(float(np.exp(b - a)) for a, b in pairwise(at)))
