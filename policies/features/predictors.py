"""How a tensor that is not computed is formed from those that were."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from policies.features.base import ChannelCorrection, Coordinate, Moment, Predictor


@dataclass(frozen=True)
class Reuse(Predictor):
    """The newest tensor as it is."""

    @property
    def depth(self) -> int:
        """One."""
        return 1

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return one."""
        return (1.0,)


@dataclass(frozen=True)
class Taylor(Predictor):
    """TaylorSeer (arXiv 2503.06923): a Taylor series with backward differences as derivatives.

    f_(j+1) = (f_j - f_j at the compute before) / (distance of the two computes), and the tensor at distance k is
    the sum of f_j k^j / j!. Exact where the tensor is linear; from order 2 on not exact on polynomials, as a
    backward difference is the derivative half an interval back.

    Attributes:
        order: O, highest derivative; O + 1 tensors are kept.
        coordinate: what distances are measured along.
    """

    order: int = 1
    coordinate: Coordinate = "step"

    def __post_init__(self) -> None:
        if self.order < 0:
            raise ValueError(f"a Taylor series has order 0 or more, not {self.order}")

    @property
    def depth(self) -> int:
        """O + 1."""
        return self.order + 1

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return the series' weights; those of plain reuse where computes coincide on the axis."""
        at, points = now.at(self.coordinate), [moment.at(self.coordinate) for moment in history]
        if not _distinct(at, points):
            return _newest_only(self.depth)
        factors = np.eye(self.depth)  # row m: f_j at compute m, as weights of the tensors
        strides = -np.diff(points)[:, None]
        total = factors[0].copy()
        for j in range(1, self.depth):
            factors = -np.diff(factors, axis=0) / strides[: self.depth - j]
            total += factors[0] * (at - points[0]) ** j / math.factorial(j)
        return tuple(total.tolist())


@dataclass(frozen=True)
class AdamsBashforth(Predictor):
    """AB-Cache (arXiv 2504.10540): the polynomial through the last computed tensors.

    The paper's weights (3, -3, 1 for order 3) hold one step after computes one step apart. In Lagrange's form the
    same polynomial serves any spacing. The sum of |weights|, at unit stride 2^order - 1, multiplies rounding
    errors: order 3 is a sensible bound.

    Attributes:
        order: tensors the polynomial goes through, 1 to 5; exact up to degree order - 1.
        coordinate: what the polynomial is one of.
    """

    order: int = 3
    coordinate: Coordinate = "step"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 5:
            raise ValueError(f"Adams-Bashforth prediction has order 1 to 5, not {self.order}")

    @property
    def depth(self) -> int:
        """The order."""
        return self.order

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return Lagrange's weights; those of plain reuse where computes coincide on the axis."""
        at, points = now.at(self.coordinate), [moment.at(self.coordinate) for moment in history]
        if not _distinct(at, points):
            return _newest_only(self.depth)
        return tuple(
            math.prod(((at - other) / (point - other) for other in points if other != point), start=1.0)
            for point in points
        )


@dataclass(frozen=True)
class Linear(Predictor):
    """FasterCache's mix of the last two (arXiv 2410.19355): newest + w (newest - the one before).

    Attributes:
        weight: w; None = it rises from 0 to 1 over the run, as in the paper. The released code has 0.5 or 0.3.
    """

    weight: float | None = None

    @property
    def depth(self) -> int:
        """Two."""
        return 2

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return 1 + w and -w."""
        w = now.step / max(steps - 1, 1) if self.weight is None else self.weight
        return (1.0 + w, -w)


@dataclass(frozen=True)
class ChannelAffine(Predictor):
    """CacheQuant's corrected reuse (arXiv 2503.01323): a fitted scale and offset per channel.

    Attributes:
        table: corrections by (step computed at, step wanted); a pair that is not in it is reused as it is.
    """

    table: Mapping[tuple[int, int], ChannelCorrection] = field(hash=False)

    @property
    def depth(self) -> int:
        """One."""
        return 1

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return one."""
        return (1.0,)

    def channels(self, now: Moment, anchor: Moment, steps: int) -> ChannelCorrection | None:
        """Return the correction fitted for this distance, if there is one."""
        return self.table.get((anchor.step, now.step))


@dataclass(frozen=True)
class CFGDelta(Predictor):
    """CFG-Cache of FasterCache (arXiv 2410.19355): the unconditional output from the conditional one.

    What is remembered is the difference of the two outputs (unconditional less conditional) in the frequency
    domain; low frequencies of it count for more while the run is early, high ones while it is late.

    Attributes:
        low: how much more low frequencies count early (the paper has 0.2).
        high: how much more high frequencies count late (0.2).
        switch: share of the run at which early ends.
        compounding: the released code's form, in which every skipped step multiplies again; it has low = high = 0.1.
    """

    low: float = 0.2
    high: float = 0.2
    switch: float = 0.5
    compounding: bool = False

    @property
    def depth(self) -> int:
        """One."""
        return 1

    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return one."""
        return (1.0,)

    def bands(self, now: Moment, anchor: Moment, steps: int) -> tuple[float, float]:
        """Return the factors of the difference's low and high frequencies.

        Args:
            now: where the output is wanted.
            anchor: where both outputs were computed last.
            steps: N.
        """
        times = now.step - anchor.step if self.compounding else 1
        if now.step < self.switch * steps:
            return (1.0 + self.low) ** times, 1.0
        return 1.0, (1.0 + self.high) ** times


def _distinct(at: float, points: Sequence[float]) -> bool:
    """Tell whether a line can be drawn: finite places, none of them twice."""
    return all(map(math.isfinite, (at, *points))) and all(a != b for a, b in pairwise(sorted(points)))


def _newest_only(depth: int) -> tuple[float, ...]:
    return (1.0, *(0.0 for _ in range(depth - 1)))
