"""What counts of audited hits prove about the rate of bad ones.

Two different questions. An interval says where the rate lies, to somebody who looks once (Clopper, Pearson, 1934).
Evidence says whether a bound is broken, for a controller that looks after every hit: an interval looked at for long
enough leaves out the truth some day, a wealth won by betting does not. Starting from 1, each hit is bet on at odds
that are fair, or unfavourable, while the rate is at most the bound; so the chance that the wealth ever reaches w is
at most 1/w, whenever one looks (Ville's inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B, 2024). The bets here are a mixture over all rates on the other side of the bound, which
for hits that are bad or not comes to a function of the two counts alone: nothing else must be remembered, and the
order of the hits plays no part. The hits need not be independent nor alike; only the chance of a bad one, given all
before, must be at most the bound.
"""

import math

from scipy.special import betainc, betaincc, betaincinv, betaln


def clopper_pearson(bad: int, hits: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate.

    Args:
        bad: how many of the hits were bad.
        hits: how many there were.
        confidence: two-sided, in (0, 1).

    Raises:
        ValueError: the counts are impossible.
    """
    _check(bad, hits)
    tail = (1.0 - confidence) / 2.0
    low = float(betaincinv(bad, hits - bad + 1, tail)) if bad else 0.0
    high = float(betaincinv(bad + 1, hits - bad, 1.0 - tail)) if bad < hits else 1.0
    return low, high


def log_evidence_above(bad: int, hits: int, bound: float) -> float:
    """Return ln of the wealth won against "the rate is at most `bound`": the more, the surer it is broken.

    Args:
        bad: how many of the hits were bad.
        hits: how many there were.
        bound: in (0, 1).

    Raises:
        ValueError: the counts or the bound are impossible.
    """
    _check(bad, hits, bound)
    return _log_wealth(bad, hits, bound, float(betaincc(bad + 1, hits - bad + 1, bound)), 1.0 - bound)


def log_evidence_below(bad: int, hits: int, bound: float) -> float:
    """Return ln of the wealth won against "the rate is at least `bound`": the more, the surer it holds.

    Arguments and errors as of `log_evidence_above`.
    """
    _check(bad, hits, bound)
    return _log_wealth(bad, hits, bound, float(betainc(bad + 1, hits - bad + 1, bound)), bound)


def _log_wealth(bad: int, hits: int, bound: float, share: float, width: float) -> float:
    """Ln of the mean over all rates p on one side of the bound of (p/bound)^bad ((1-p)/(1-bound))^(hits-bad).

    `share` is how much of a Beta(bad + 1, hits - bad + 1) lies on that side, `width` how wide the side is.
    """
    if share <= 0.0:
        return -math.inf
    fair = bad * math.log(bound) + (hits - bad) * math.log1p(-bound)
    return float(betaln(bad + 1, hits - bad + 1)) + math.log(share) - math.log(width) - fair


def _check(bad: int, hits: int, bound: float = 0.5) -> None:
    if not 0 <= bad <= hits:
        raise ValueError(f"{bad} bad hits of {hits}")
    if not 0.0 < bound < 1.0:
        raise ValueError(f"a bound on a rate lies in (0, 1), not {bound}")
