"""Policies that look at the data of the request: TeaCache, SeaCache, First Block Cache, DBCache, AdaCache."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from policies.features.base import CachePolicy, Decision, Indicator, PolicyState, Probe, Reference, StepContext


@dataclass(frozen=True)
class AccumulatedDistance(CachePolicy):
    """Reuse while the distances since the last compute, put through a polynomial, sum up to less than a bound.

    TeaCache (arXiv 2411.19108) fits the polynomial to predict how far the output moves from how far the indicator
    moves. SeaCache (arXiv 2602.18993) is the same with the identity and the "filtered" indicator. The first and the
    last step are computed. The polynomial's value is clamped at 0, which the authors' code does not do: a negative
    distance is an artefact of the fit, and would pay for reuses to come.

    Attributes:
        threshold: of the sum, at least 0; 0 never reuses, infinity always.
        coefficients: of the polynomial, highest power first.
        indicator: what is measured.
    """

    threshold: float
    coefficients: tuple[float, ...] = (1.0, 0.0)
    indicator: Indicator = "modulated-input"
    reference: ClassVar[Reference] = "previous"

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        if not self.coefficients or not all(map(math.isfinite, self.coefficients)):
            raise ValueError(f"coefficients must be finite numbers, at least one, got {self.coefficients}")

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Probe, but for the first and the last step."""
        return Decision.COMPUTE if _entering(context, state) or context.last else Decision.PROBE

    def decide(self, context: StepContext, state: PolicyState, probe: Probe) -> Decision:
        """Add the estimate for `probe` to the sum and compare."""
        estimate = self.estimate(probe.distance)
        if not math.isfinite(estimate):
            return Decision.COMPUTE
        state.accumulated += estimate
        return Decision.REUSE if state.accumulated < self.threshold else Decision.COMPUTE

    def observe(self, context: StepContext, state: PolicyState, *, computed: bool, change: float | None) -> None:
        """Start a new sum after a compute, whoever asked for it."""
        super().observe(context, state, computed=computed, change=change)
        if computed:
            state.accumulated = 0.0

    def estimate(self, distance: float) -> float:
        """Return the polynomial's value at `distance`, at least 0; not a number where it has none."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * distance + coefficient
        return 0.0 if value < 0.0 else value


@dataclass(frozen=True)
class ProbeDistance(CachePolicy):
    """Reuse while the indicator is close to what it was at the last compute.

    First Block Cache, and DBCache with more than one block before the cached part. Slow drift is bounded, since
    the reference moves only with a compute.

    Attributes:
        threshold: of the distance, at least 0; 0 never reuses, infinity always.
        indicator: what is measured.
        warmup: steps at the start of the full schedule that are computed; a resumed job past them has none.
    """

    threshold: float
    indicator: Indicator = "increment"
    warmup: int = 0
    reference: ClassVar[Reference] = "computed"

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Probe, but for the first step and the warm-up."""
        forced = _entering(context, state) or context.step < self.warmup
        return Decision.COMPUTE if forced else Decision.PROBE

    def decide(self, context: StepContext, state: PolicyState, probe: Probe) -> Decision:
        """Compare."""
        return Decision.REUSE if probe.distance < self.threshold else Decision.COMPUTE


@dataclass(frozen=True, slots=True)
class MotionRegularisation:
    """How moving content is computed more often (MoReg, arXiv 2411.02397): change *= m + |g|.

    m = (motion / scale) ** exponent and g = gradient * (m - m of the compute before) / (steps between the two). The
    numbers are those the authors tuned for Open-Sora.

    Attributes:
        scale: motion score of ordinary content.
        exponent: how sharply more motion than that counts.
        gradient: weight of a change of motion.
        window: shares of the schedule from which and up to which motion counts, without both ends.
    """

    scale: float = 0.385
    exponent: float = 8.0
    gradient: float = 10.0
    window: tuple[float, float] = (0.1, 0.9)

    def __post_init__(self) -> None:
        if not (0.0 < self.scale < math.inf and 0.0 <= self.window[0] < self.window[1] <= 1.0):
            raise ValueError(f"scale must be above 0 and the window lie in [0, 1], got {self.scale}, {self.window}")

    def factor(self, context: StepContext, motion: float, before: float | None, gap: int) -> float:
        """Return what the change is multiplied by.

        Args:
            context: the evaluation.
            motion: score of the content now.
            before: and at the compute before; None = not known, taken as the same.
            gap: steps between the two, at least 1.
        """
        if not self.window[0] * context.steps < context.step < self.window[1] * context.steps:
            return 1.0
        level = self._level(motion)
        slope = 0.0 if before is None else self.gradient * (level - self._level(before)) / gap
        return level + abs(slope)

    def _level(self, motion: float) -> float:
        return float((motion / self.scale) ** self.exponent)


@dataclass(frozen=True)
class RateCodebook(CachePolicy):
    """Look up in how many steps to compute next, by how fast the computed tensor has last changed (AdaCache).

    arXiv 2411.02397, with the relative change of the authors' code. Computed are K and K + 1, since a change takes
    two, and the last two steps. The next compute is known as soon as the last one is done.

    Attributes:
        bounds: of the change per step, ascending.
        rates: steps to the next compute for changes up to each bound; beyond the last bound it is 1.
        motion: how motion is counted in; None = not at all.
    """

    bounds: tuple[float, ...]
    rates: tuple[int, ...]
    motion: MotionRegularisation | None = None
    measures_change: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.bounds) != len(self.rates):
            raise ValueError(f"{len(self.bounds)} bounds need as many rates, got {len(self.rates)}")
        if not all(low < high for low, high in itertools.pairwise((0.0, *self.bounds))):
            raise ValueError(f"bounds must be positive and ascending, got {self.bounds}")
        if any(rate < 1 for rate in self.rates):
            raise ValueError(f"rates must be at least 1, got {self.rates}")

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Compute when it is due, and at both ends."""
        ends = context.step <= context.first_step + 1 or context.step >= context.steps - 2
        if ends or state.next_compute is None or state.computed_at is None:
            return Decision.COMPUTE
        between = state.computed_at < context.step < state.next_compute
        return Decision.REUSE if between else Decision.COMPUTE

    def observe(self, context: StepContext, state: PolicyState, *, computed: bool, change: float | None) -> None:
        """Set the next compute; `state.motion` counts in, and becomes `state.motion_before`."""
        before = state.computed_at
        super().observe(context, state, computed=computed, change=change)
        if not computed:
            return
        state.next_compute = None
        if change is not None and before is not None:
            gap = max(1, context.step - before)
            change *= self._motion(context, state, gap)
            state.next_compute = context.step + self.rate(change / gap)
        state.motion_before, state.motion = state.motion, None

    def rate(self, change: float) -> int:
        """Return the steps to the next compute.

        Args:
            change: per step, relative; one that is not a number counts as beyond every bound.
        """
        found = (rate for bound, rate in zip(self.bounds, self.rates, strict=True) if change <= bound)
        return next(found, 1)

    def _motion(self, context: StepContext, state: PolicyState, gap: int) -> float:
        if self.motion is None or state.motion is None:
            return 1.0
        return self.motion.factor(context, state.motion, state.motion_before, gap)


def motion_score(frames: npt.NDArray[Any]) -> float:
    """Return how much a film moves, 0 (a still) to 1 (arXiv 2411.02397).

    The mean over lags, and over pairs of frames that far apart, of |a - b| / (|a| + |b|), norms being sums of
    absolute values; a pair of empty frames does not move.

    Args:
        frames: [F, ...]; fewer than two do not move.
    """
    flat = np.asarray(frames, dtype=np.float64).reshape(len(frames), -1)
    size = np.abs(flat).sum(axis=1)
    lags = range(1, len(flat))
    moved = [_mean_ratio(np.abs(flat[lag:] - flat[:-lag]).sum(axis=1), size[lag:] + size[:-lag]) for lag in lags]
    return float(np.mean(moved)) if moved else 0.0


def _mean_ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> float:
    return float(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0.0).mean())


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")


def _entering(context: StepContext, state: PolicyState) -> bool:
    return state.computed_at is None or context.step == context.first_step
