"""A run in figures: totals, and the same over time."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.outcomes import HITS, Outcome


@dataclass(frozen=True, slots=True)
class Slo:
    """The latency a request must keep: a multiple of what the same work takes alone.

    Attributes:
        standalone: seconds of each class of work, alone on an idle service, without the cache.
        factor: what they are multiplied by.
        seconds: if given, the limit for every class instead.
    """

    standalone: dict[str, float] = field(default_factory=dict)
    factor: float = 3.0
    seconds: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is a limit at all."""
        return self.seconds is not None or bool(self.standalone)

    def limit(self, asked: str) -> float:
        """Return the limit of a class of work, in seconds from the intended start."""
        return self.factor * self.standalone[asked] if self.seconds is None else self.seconds

    def kept(self, outcome: Outcome) -> bool:
        """Whether a request was answered within its limit."""
        return outcome.answered and outcome.latency <= self.limit(outcome.asked)


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures; shares are of answered requests, unless said otherwise.

    Attributes:
        requests: in the outcomes.
        failures: not answered, or answered wrongly.
        errors: failures by message.
        verdicts: answers by verdict.
        hit_share: share of exact and approximate hits.
        mean_skip_share: mean K/N over all answers.
        mean_skip_share_of_hits: mean K/N over approximate hits.
        steps_saved_share: (skipped - wasted) / N, summed over all answers.
        saved_gpu_seconds: as the answers report them.
        spent_gpu_seconds: device time the answers say they took; None if none says.
        gpu_saved_share: saved / (saved + spent), when known.
        latency_p50: seconds from the intended start.
        latency_p95: seconds from the intended start.
        latency_p99: seconds from the intended start.
        latency_mean: seconds from the intended start.
        duration: seconds from the first intended start to the last answer.
        throughput: answers per second.
        good: requests answered within the SLO; None without an SLO.
        attainment: good / all requests.
        goodput: good requests per second, from the first intended start to the last good answer or intended start.
    """

    requests: int
    failures: int
    errors: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    hit_share: float = 0.0
    mean_skip_share: float = 0.0
    mean_skip_share_of_hits: float = 0.0
    steps_saved_share: float = 0.0
    saved_gpu_seconds: float = 0.0
    spent_gpu_seconds: float | None = None
    gpu_saved_share: float | None = None
    latency_p50: float = math.nan
    latency_p95: float = math.nan
    latency_p99: float = math.nan
    latency_mean: float = math.nan
    duration: float = 0.0
    throughput: float = 0.0
    good: int | None = None
    attainment: float | None = None
    goodput: float | None = None


def summarise(outcomes: Sequence[Outcome], slo: Slo | None = None) -> Summary:
    """Sum a run up.

    Args:
        outcomes: in any order.
        slo: what counts as good; None leaves goodput out.
    """
    answered = [one for one in outcomes if one.answered]
    failed = [one.error for one in outcomes if one.error is not None]
    good = _goodput(outcomes, slo) if slo is not None and slo.known and outcomes else (None, None, None)
    if not answered:
        return Summary(
            len(outcomes), len(failed), dict(Counter(failed)), good=good[0], attainment=good[1], goodput=good[2]
        )
    latencies = [one.latency for one in answered]
    steps = sum(one.steps for one in answered)
    saved = sum(one.saved_gpu_seconds for one in answered)
    spent = spent_of(answered)
    duration = max(one.finished for one in answered) - min(one.intended for one in outcomes)
    return Summary(
        requests=len(outcomes),
        failures=len(failed),
        errors=dict(Counter(failed).most_common()),
        verdicts=dict(sorted(Counter(one.verdict or "?" for one in answered).items())),
        hit_share=_mean([one.verdict in HITS for one in answered]),
        mean_skip_share=_mean([_skip_share(one) for one in answered]),
        mean_skip_share_of_hits=_mean([_skip_share(one) for one in answered if one.verdict == "APPROX"]),
        steps_saved_share=sum(one.skipped - one.wasted for one in answered) / steps if steps else 0.0,
        saved_gpu_seconds=saved,
        spent_gpu_seconds=spent,
        gpu_saved_share=None if spent is None or saved + spent <= 0 else saved / (saved + spent),
        latency_p50=percentile(latencies, 50),
        latency_p95=percentile(latencies, 95),
        latency_p99=percentile(latencies, 99),
        latency_mean=statistics.fmean(latencies),
        duration=duration,
        throughput=len(answered) / duration if duration > 0 else 0.0,
        good=good[0],
        attainment=good[1],
        goodput=good[2],
    )


def spent_of(outcomes: Sequence[Outcome]) -> float | None:
    """Device seconds of the outcomes that tell; None if none does."""
    told = [one.spent_gpu_seconds for one in outcomes if one.spent_gpu_seconds is not None]
    return sum(told) if told else None


def percentile(values: Sequence[float], rank: float) -> float:
    """Nearest-rank percentile: a value that was measured, never one between two."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def jain(shares: Sequence[float]) -> float | None:
    """Jain's fairness index (Jain, Chiu and Hawe, DEC TR-301, 1984): 1 = all alike, 1/n = one has everything."""
    squares = sum(share**2 for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares > 0 else None


def _goodput(outcomes: Sequence[Outcome], slo: Slo) -> tuple[int, float, float]:
    good = [one for one in outcomes if slo.kept(one)]
    start, last = min(one.intended for one in outcomes), max(one.intended for one in outcomes)
    seconds = max([last, *(one.finished for one in good)]) - start
    return len(good), len(good) / len(outcomes), len(good) / seconds if seconds > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _skip_share(one: Outcome) -> float:
    return one.skipped / one.steps if one.steps else 0.0
