"""What counts of audited hits prove about the rate of bad ones.

A hit may be worse than its full run (bad), better (good), or even. Any two pictures of one prompt differ, for the
better as often as for the worse; what a cache does is the difference, so the rate in question is (bad - good) / hits.

Two different questions. An interval says where the rate lies, to somebody who looks once (Agresti and Min, Statistics
in Medicine 2005). Evidence says whether a bound is broken, for a controller that looks after every hit: an interval
looked at for long enough leaves out the truth some day, a wealth won by betting does not. Starting from 1, each hit
is bet on at odds that are fair, or unfavourable, while the rate is at most the bound; so the chance that the wealth
ever reaches w is at most 1/w, whenever one looks (Ville's inequality; Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B, 2024). With x = 1, 0 or -1 for bad, even and good, a bet of l multiplies
the wealth by 1 + l (x - bound); the bets here are a mixture over l, so they come to a function of the counts alone:
nothing else must be remembered, and the order of the hits plays no part. The hits need not be independent nor alike;
only the expected x, given all before, must be at most the bound.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_BETS = (np.arange(64) + 0.5) / 64
# Of what a hit can cost: with all of it, one good hit would end the wealth for ever.
_MOST = 0.95


def interval(bad: int, good: int, hits: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of (bad - good) / hits: adjusted Wald, half a hit added to each of four cells.

    Args:
        bad: how many of the hits were bad.
        good: how many were good.
        hits: how many there were.
        confidence: two-sided, in (0, 1).

    Raises:
        ValueError: the counts are impossible.
    """
    _check(bad, good, hits)
    count = hits + 2
    mean = (bad - good) / count
    spread = math.sqrt(max(bad + good + 1 - count * mean**2, 0.0)) / count
    reach = NormalDist().inv_cdf((1.0 + confidence) / 2.0) * spread
    return max(-1.0, mean - reach), min(1.0, mean + reach)


def log_evidence_above(bad: int, good: int, hits: int, bound: float) -> float:
    """Return ln of the wealth won against "the rate is at most `bound`": the more, the surer it is broken.

    Args:
        bad: how many of the hits were bad.
        good: how many were good.
        hits: how many there were.
        bound: in (0, 1).

    Raises:
        ValueError: the counts or the bound are impossible.
    """
    return _log_wealth(bad, good, hits, bound, _BETS * _MOST / (1.0 + bound))


def log_evidence_below(bad: int, good: int, hits: int, bound: float) -> float:
    """Return ln of the wealth won against "the rate is at least `bound`": the more, the surer it holds.

    Arguments and errors as of `log_evidence_above`.
    """
    return _log_wealth(bad, good, hits, bound, -_BETS * _MOST / (1.0 - bound))


def _log_wealth(bad: int, good: int, hits: int, bound: float, bets: NDArray[np.float64]) -> float:
    _check(bad, good, hits, bound)
    won = bad * np.log1p(bets * (1.0 - bound)) + good * np.log1p(-bets * (1.0 + bound))
    won = won + (hits - bad - good) * np.log1p(-bets * bound)
    return float(np.logaddexp.reduce(won)) - math.log(len(bets))


def _check(bad: int, good: int, hits: int, bound: float = 0.5) -> None:
    if bad < 0 or good < 0 or bad + good > hits:
        raise ValueError(f"{bad} bad hits and {good} good ones of {hits}")
    if not 0.0 < bound < 1.0:
        raise ValueError(f"a bound on a rate lies in (0, 1), not {bound}")
