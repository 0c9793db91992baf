"""From trials to a threshold table: the largest K whose bad-hit rate stays within the bound, with confidence.

A hit is *bad* when it lacks something that a full run of the same prompt has: its score lies more than the judge's
`loss` below the full run's. So does, now and then, a second full run, whose noise is another. What a cache does to
its users is the difference: the *bad-hit rate* here is how much more often a hit is bad than a second full run is. It
is 0 if hits are as good as full runs, whatever the luck of the draw. The shadow audit of a running service knows one
full run only and counts otherwise: see `policies.matching.loss`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm
from sklearn.isotonic import IsotonicRegression

from policies.matching.loss import visibly_below
from policies.matching.table import ThresholdRow, ThresholdTable
from service.calibrate.matching.trials import Trial

FEWEST = 30
"""Hits below this number prove nothing, however good they are."""
KNOTS = 9
SPARSE = 10
"""With fewer hits than this that differ from full runs, in whichever direction, a normal limit claims too much."""
_GRID = 24
_ROUNDING = 1e-4  # equal prompts may score a little under 1 in another library's arithmetic


def excess_of(
    hit: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64], visible: float
) -> NDArray[np.float64]:
    """How much worse than a second full run each hit is: -1, -1/2, 0, 1/2 or 1.

    Half the number of full runs (there are two) that it is visibly below, less half the number of full runs that are
    visibly below the other one. Its mean is the bad-hit rate.

    Args:
        hit: scores of the hits.
        one: of a full run of the same prompt each.
        two: of another full run, from other noise.
        visible: loss that a user sees, see `visibly_below`.
    """
    bad = visibly_below(hit, one, visible).astype(float) + visibly_below(hit, two, visible)
    luck = visibly_below(one, two, visible) | visibly_below(two, one, visible)
    return np.asarray((bad - luck) / 2)


def excess(trials: Sequence[Trial], visible: float) -> NDArray[np.float64]:
    """`excess_of` trials."""
    hit = np.array([trial.resumed for trial in trials], dtype=float)
    one = np.array([trial.full for trial in trials], dtype=float)
    two = np.array([trial.other for trial in trials], dtype=float)
    return excess_of(hit, one, two, visible)


def upper_limit(found: NDArray[np.float64], confidence: float) -> float:
    """One-sided upper confidence limit of the mean of `excess`.

    A normal limit, made safe for few and equal values as Agresti & Min (Statistics in Medicine 2005) do it for paired
    proportions: two hits are added that differ in either direction by half. Where hardly any hit differs, that claims
    too much (30 hits without any difference would prove 2 % at 80 %, though 2 % gives such hits every second time):
    there the exact limit of the bad ones' share (Clopper & Pearson) holds, where it is higher.
    """
    count = len(found) + 2
    mean = float(found.sum()) / count
    spread = math.sqrt(max(float((found**2).sum()) + 0.5 - count * mean**2, 0.0)) / count
    limit = mean + float(norm.ppf(confidence)) * spread
    return limit if np.count_nonzero(found) >= SPARSE else max(limit, _exact_limit(found, confidence))


def _exact_limit(found: NDArray[np.float64], confidence: float) -> float:
    bad = float(found[found > 0].sum())
    return 1.0 if bad >= len(found) else float(beta.ppf(confidence, bad + 1, len(found) - bad))


@dataclass(frozen=True, slots=True)
class Bound:
    """What is to be kept: the bad-hit rate at most `rate`, shown with `confidence`, for losses above `visible`."""

    rate: float
    confidence: float
    visible: float


@dataclass(frozen=True, slots=True)
class LevelFit:
    """The bound of one level.

    Attributes:
        skip: the level.
        max_divergence: largest divergence at the judging level with which it may be entered.
        hits: trials within.
        rate: their bad-hit rate.
        upper: its upper confidence limit.
    """

    skip: float
    max_divergence: float
    hits: int
    rate: float
    upper: float


def fit_level(trials: Sequence[Trial], bound: Bound, ceiling: float = math.inf) -> LevelFit | None:
    """Return the laxest divergence that keeps one level's bad-hit rate within the bound, None if none does.

    Thresholds are tested from strict to lax, each at full confidence, and the last before the first failure is taken
    (fixed sequence testing: Angelopoulos et al., "Learn then Test", 2021): the chance that a level breaks its bound
    on prompts like these is 1 - confidence, whatever the number of thresholds. Tests begin where the sample can prove
    anything at all, see `_steps`.

    Args:
        trials: of one level and of differing prompts.
        bound: what is to be kept.
        ceiling: divergence above which nothing is tested; to stop early costs no confidence.
    """
    ordered = sorted(trials, key=lambda trial: trial.early)
    found = excess(ordered, bound.visible)
    best: LevelFit | None = None
    for count in _steps(found, bound):
        if ordered[count - 1].early > ceiling:
            break
        limit = upper_limit(found[:count], bound.confidence)
        if limit > bound.rate:
            break
        best = LevelFit(ordered[0].skip, ordered[count - 1].early, count, float(found[:count].mean()), limit)
    return best


def _steps(found: NDArray[np.float64], bound: Bound) -> list[int]:
    """Numbers of accepted trials to test at, ascending.

    The first is where a sample with differences of that size, as many good as bad ones, would pass: their size says
    nothing of their sign, so looking at it costs no confidence (as in McNemar's test). Where hardly any differs, it
    is where a sample without any difference would pass.
    """
    counts = np.arange(1, len(found) + 1)
    spread = np.sqrt(np.cumsum(found**2) + 0.5) / (counts + 2)
    enough = counts >= np.where(np.cumsum(found != 0) < SPARSE, hits_needed(bound), FEWEST)
    possible = counts[(float(norm.ppf(bound.confidence)) * spread <= bound.rate) & enough]
    return sorted({round(n) for n in np.geomspace(possible[0], len(found), _GRID)}) if len(possible) else []


def hits_needed(bound: Bound) -> int:
    """How many hits without any difference the bound needs at least."""
    return max(FEWEST, math.ceil(math.log1p(-bound.confidence) / math.log1p(-bound.rate)))


def fit_table(
    trials: Sequence[Trial], bound: Bound, key: Mapping[str, str], about: Mapping[str, Any], steps: int
) -> tuple[ThresholdTable, list[LevelFit]]:
    """Fit every level that occurs in the trials; levels that cannot hold the bound are left out.

    A deeper level never gets a laxer bound than a shallower one.

    Args:
        trials: of all levels.
        bound: what is to be kept.
        key: see `ThresholdTable`.
        about: goes into the table's metadata.
        steps: N of the trials.
    """
    fits: list[LevelFit] = []
    drawn = [trial for trial in trials if math.isfinite(trial.early)]
    given_up = [trial for trial in trials if not math.isfinite(trial.early)]
    for skip in sorted({trial.skip for trial in drawn}):
        # Held to the shallower bounds from the outset: what is told of a level is then told of its own bound.
        ceiling = min((shallower.max_divergence for shallower in fits), default=math.inf)
        fit = fit_level([t for t in drawn if t.skip == skip and not t.repeat], bound, ceiling)
        if fit is not None:
            fits.append(fit)
    judged_at = min(trial.skip for trial in drawn)
    judged = [t for t in [*drawn, *given_up] if t.skip in (judged_at, 0.0) and not t.repeat]
    floor = paying_similarity(judged, fits, judged_at, steps)
    rows = tuple(
        ThresholdRow(fit.skip, floor, fit.max_divergence, acceptance(judged, fit.max_divergence)) for fit in fits
    )
    metadata = {**about, "levels": [asdict(fit) for fit in fits]}
    table = ThresholdTable(rows, key, metadata, judged_at=judged_at, step_share=1 / steps)
    return table, fits


def acceptance(trials: Sequence[Trial], max_divergence: float) -> tuple[tuple[float, float], ...]:
    """Return how the gate's consent rises with similarity: isotonic, at KNOTS similarities; () without trials."""
    if not trials:
        return ()
    similarity = np.array([trial.similarity for trial in trials])
    passed = np.array([trial.early <= max_divergence for trial in trials], dtype=float)
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(similarity, passed)
    knots = sorted({round(float(knot), 4) for knot in np.quantile(similarity, np.linspace(0, 1, KNOTS))})
    return tuple((knot, round(float(fitted.predict([knot])[0]), 4)) for knot in knots)


def saved_steps(early: float, fits: Sequence[LevelFit], judged_at: float, steps: int) -> float:
    """Steps an attempt saves net of the one spent on judging, -1 if it is refused."""
    levels = [fit.skip for fit in fits if early <= fit.max_divergence]
    if not levels:
        return -1.0
    deepest = max(levels)
    return deepest * steps - (deepest > judged_at)


def paying_similarity(trials: Sequence[Trial], fits: Sequence[LevelFit], judged_at: float, steps: int) -> float:
    """The similarity floor under which attempts on different prompts save the most steps net of wasted ones.

    Never above one, less a rounding error: the same prompt is always worth an attempt.
    """
    ordered = sorted(trials, key=lambda trial: -trial.similarity)
    net = np.cumsum([saved_steps(t.early, fits, judged_at, steps) for t in ordered])
    if len(net) == 0 or net.max() <= 0:
        return 1.0 - _ROUNDING
    # A floor lies between two different similarities, so only the last of equal ones can be one.
    last_of_equals = [
        i for i, t in enumerate(ordered) if i + 1 == len(ordered) or ordered[i + 1].similarity < t.similarity
    ]
    best = max(last_of_equals, key=lambda i: float(net[i]))
    return min(ordered[best].similarity, 1.0) - _ROUNDING
