"""What calibration computes from the features of a few full runs; NumPy only, no model in sight.

T is the number of steps of the run. Distances between features are absolute differences (the L1 norm).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def fit_polynomial(inputs: Array, outputs: Array, degree: int = 4) -> tuple[tuple[float, ...], float]:
    """Fit how far the output moves to how far the indicator moves, by least squares (TeaCache, arXiv 2411.19108).

    Args:
        inputs: [n], relative distances of the indicator from step to step.
        outputs: [n], of the output.
        degree: of the polynomial.

    Returns:
        Coefficients, highest power first, and R squared, the share of the outputs' variance that they explain.

    Raises:
        ValueError: fewer points than coefficients, or values that are not finite.
    """
    x, y = _finite(inputs).ravel(), _finite(outputs).ravel()
    if len(x) != len(y) or len(x) <= degree:
        raise ValueError(f"a polynomial of degree {degree} needs more than {degree} pairs, got {len(x)} and {len(y)}")
    # Distances are small numbers: unscaled, their fourth powers would vanish beside the constant.
    scale = float(np.abs(x).max()) or 1.0
    powers = np.vander(x / scale, degree + 1)
    solution = np.linalg.lstsq(powers, y, rcond=None)[0]
    missed, spread = float(((y - powers @ solution) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r_squared = 1.0 - missed / spread if spread > 0.0 else 1.0
    return tuple(float(c) for c in solution / scale ** np.arange(degree, -1, -1)), r_squared


def magnitude_ratios(norms: Array) -> tuple[float, ...]:
    """Return by what the cached residual grows from step to step (MagCache, arXiv 2506.09045).

    Args:
        norms: [samples, T, ...], Euclidean norm of the residual of every token.

    Returns:
        T ratios: the mean over tokens and samples of a norm over the one a step before; the first is 1.

    Raises:
        ValueError: a norm that is not a positive number.
    """
    values = _finite(norms)
    if values.ndim < 2 or not (values > 0.0).all():
        raise ValueError(f"norms must be positive numbers [samples, T, ...], got shape {values.shape}")
    ratios = values[:, 1:] / values[:, :-1]
    return (1.0, *(float(step.mean()) for step in np.moveaxis(ratios, 1, 0)))


def skip_errors(features: Array, lags: int = 3) -> Floats:
    """Return what skipping costs one sub-layer in one run (SmoothCache, arXiv 2411.10510).

    To be averaged over sub-layers of one kind and over runs.

    Args:
        features: [T, ...], the sub-layer's output at every step.
        lags: longest distance in steps.

    Returns:
        [lags, T]; row j - 1, column i is sum |L_i - L_{i+j}| / sum |L_{i+j}|, and 0 where i + j is past the end.
    """
    flat = _finite(features).reshape(len(features), -1)
    sizes = np.abs(flat).sum(axis=1)
    errors = np.zeros((lags, len(flat)))
    for lag in range(1, min(lags, len(flat) - 1) + 1):
        moved = np.abs(flat[lag:] - flat[:-lag]).sum(axis=1)
        errors[lag - 1, :-lag] = moved / np.maximum(sizes[lag:], 1e-12)
    return errors


def greedy_mask(errors: Array, alpha: float) -> tuple[bool, ...]:
    """Return which steps to compute when no skip may cost more than `alpha` (SmoothCache, arXiv 2411.10510).

    From a computed step, as many steps are skipped as the error at the far end allows. The first and the last step
    are computed.

    Args:
        errors: [lags, T], see `skip_errors`.
        alpha: largest error.
    """
    lags, steps = errors.shape
    mask, step = [False] * steps, 0
    while step < steps:
        mask[step] = True
        room = range(min(lags, steps - 2 - step), 0, -1)
        step += 1 + next((lag for lag in room if errors[lag - 1, step] <= alpha), 0)
    return tuple(mask)


def step_distances(features: Array) -> Floats:
    """Return how far the features of every two steps of one run are apart; to be averaged over runs.

    Args:
        features: [T, ...].

    Returns:
        [T, T], mean absolute differences.
    """
    flat = _finite(features).reshape(len(features), -1)
    return np.stack([np.abs(flat - row).mean(axis=1) for row in flat])


def optimal_groups(
    distances: Array, groups: int, first_step: int = 0, longest: int | None = None, shortest: int | None = None
) -> tuple[bool, ...]:
    """Return which steps to compute so that all others are as close as can be to the compute before them.

    The dynamic programme of CacheQuant (arXiv 2503.01323): the steps from `first_step` on are cut into contiguous
    groups, each led by a compute; a group costs the sum of its steps' distances to its leader.

    Args:
        distances: [T, T], of the features of every two steps (see `step_distances`; not summed up).
        groups: computes, at least 1.
        first_step: K; the flags before it are False.
        longest: most steps of a group, the leader included; None = no bound.
        shortest: fewest steps of a group.

    Raises:
        ValueError: the steps cannot be cut like that.
    """
    costs = _group_costs(_finite(distances)[first_step:, first_step:], longest, shortest)
    length = len(costs)
    if not 1 <= groups <= length:
        raise ValueError(f"{length} steps cannot be cut into {groups} groups")
    best, leaders = costs[0], []
    for _ in range(groups - 1):
        totals = np.concatenate(([np.inf], best[:-1]))[:, None] + costs
        leaders.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError(
            f"{length} steps cannot be cut into {groups} groups of {shortest or 1} to {longest or length} steps"
        )
    starts, end = {first_step}, length - 1
    for leader in reversed(leaders):
        starts.add(first_step + int(leader[end]))
        end = int(leader[end]) - 1
    return tuple(step in starts for step in range(len(distances)))


def _group_costs(distances: Floats, longest: int | None, shortest: int | None) -> Floats:
    """Return the cost of a group from step i to step j, [L, L]; infinite where there can be none."""
    first, last = np.indices(distances.shape)
    size = last - first + 1
    allowed = (size >= max(1, shortest or 1)) & (size <= (longest or len(distances)))
    return np.where(allowed, np.cumsum(np.triu(distances), axis=1), np.inf)


class ChannelMoments:
    """Running moments of anchor and target per channel, so that the features themselves need not be kept."""

    def __init__(self) -> None:
        self.count = 0
        self._anchor: Floats = np.zeros(0)
        self._target: Floats = np.zeros(0)
        self._variance: Floats = np.zeros(0)
        self._covariance: Floats = np.zeros(0)

    def add(self, anchor: Array, target: Array) -> None:
        """Take in features of one or more samples.

        Args:
            anchor: [..., C], computed at the anchor step.
            target: [..., C], at the step that is to be formed from it.

        Raises:
            ValueError: shapes that differ from each other or from those before, or values that are not finite.
        """
        x, y = (_finite(part).reshape(-1, np.shape(part)[-1]) for part in (anchor, target))
        if x.shape != y.shape or (self.count and x.shape[1:] != self._anchor.shape):
            raise ValueError(f"anchor {np.shape(anchor)} and target {np.shape(target)} do not fit")
        if len(x):
            self._merge(x, y)

    def _merge(self, x: Floats, y: Floats) -> None:
        # Moments about the mean, merged pairwise: plain sums of squares cancel where the mean is large.
        if not self.count:
            self._anchor, self._target, self._variance, self._covariance = np.zeros((4, x.shape[1]))
        total = self.count + len(x)
        dx, dy = x.mean(axis=0) - self._anchor, y.mean(axis=0) - self._target
        between = self.count * len(x) / total
        centred = x - x.mean(axis=0)
        self._variance = self._variance + (centred**2).sum(axis=0) + between * dx**2
        self._covariance = self._covariance + (centred * (y - y.mean(axis=0))).sum(axis=0) + between * dx * dy
        self._anchor = self._anchor + dx * len(x) / total
        self._target = self._target + dy * len(x) / total
        self.count = total

    def fit(self) -> tuple[Floats, Floats]:
        """Return the scale and the offset, [C] each, that bring the anchor closest to the target.

        A channel that never varies is moved and not scaled.

        Raises:
            ValueError: nothing was added.
        """
        if not self.count:
            raise ValueError("nothing to fit: no features were added")
        varies = self._variance > self.count * (1e-12 * np.abs(self._anchor)) ** 2
        scale = np.divide(self._covariance, self._variance, out=np.ones_like(self._variance), where=varies)
        return scale, self._target - scale * self._anchor


class LagMoments:
    """Running moments of a run's features per step, lag and channel: what `ChannelMoments` are to one pair of steps.

    Args:
        steps: T.
        lags: longest distance in steps.
    """

    def __init__(self, steps: int, lags: int) -> None:
        self.count = 0
        self._steps, self._lags = steps, lags
        self._mean: Floats = np.zeros((steps, 1))
        self._variance: Floats = np.zeros((steps, 1))
        self._covariance: Floats = np.zeros((steps, lags, 1))

    def add(self, count: int, mean: Array, variance: Array, covariance: Array) -> None:
        """Take in one run.

        Args:
            count: features per step and channel.
            mean: [T, C].
            variance: [T, C], sum of squares about the mean.
            covariance: [T, lags, C]; entry [i, j - 1] is the sum of products about the means of steps i and i + j,
                and anything finite where i + j is past the end.

        Raises:
            ValueError: values that are not finite.
        """
        mean, variance, covariance = _finite(mean), _finite(variance), _finite(covariance)
        total = self.count + count
        step = mean - self._mean
        between = self.count * count / total
        self._variance = self._variance + variance + between * step**2
        self._covariance = self._covariance + covariance + between * step[:, None] * self._later(step)
        self._mean = self._mean + step * count / total
        self.count = total

    def fit(self, dtype: type[np.floating[Any]] = np.float64) -> tuple[Array, Array]:
        """Return scale and offset, [T, lags, C] each, of `ChannelMoments.fit`; 1 and 0 past the end.

        Args:
            dtype: of the result; the offset makes up for the rounding of the scale.
        """
        inside, anchor = self._inside(), self._mean[:, None]
        scale = np.where(inside & self._varies()[:, None], self._slopes(), 1.0).astype(dtype)
        offset = np.where(inside, self._later(self._mean) - scale.astype(np.float64) * anchor, 0.0)
        return scale, offset.astype(dtype)

    def explained(self) -> float:
        """Return R squared of all corrections: the share of the targets' variance per channel that they explain."""
        inside = self._inside() & self._varies()[:, None]
        total = float(np.where(self._inside(), self._later(self._variance), 0.0).sum())
        found = float(np.where(inside, self._slopes() * self._covariance, 0.0).sum())
        return found / total if total > 0.0 else 1.0

    def _slopes(self) -> Floats:
        variance = np.where(self._varies(), self._variance, 1.0)
        return self._covariance / variance[:, None]

    def _varies(self) -> npt.NDArray[np.bool_]:
        varies: npt.NDArray[np.bool_] = self._variance > self.count * (1e-12 * np.abs(self._mean)) ** 2
        return varies

    def _inside(self) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = (
            np.add.outer(np.arange(self._steps), np.arange(1, self._lags + 1)) < self._steps
        )
        return inside[:, :, None]

    def _later(self, values: Floats) -> Floats:
        """Return [T, C] at the step so many lags later, [T, lags, C]; 0 past the end."""
        later = np.zeros((self._steps, self._lags, values.shape[1]))
        for lag in range(1, self._lags + 1):
            later[:-lag, lag - 1] = values[lag:]
        return later


def channel_fit(anchor: Array, target: Array) -> tuple[Floats, Floats]:
    """Fit target = scale * anchor + offset per channel by least squares (the DEC of CacheQuant, arXiv 2503.01323).

    Args:
        anchor: [n, C].
        target: [n, C].

    Returns:
        Scale [C] and offset [C].
    """
    moments = ChannelMoments()
    moments.add(anchor, target)
    return moments.fit()


def _finite(values: Array) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("features to fit must be finite")
    return array
