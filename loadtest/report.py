"""What a replay came to: outcomes, their summary, and the comparison of two replays.

`python -m loadtest.report cached.json uncached.json` compares two files written by `--report`.
"""

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HITS = ("EXACT", "APPROX")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request of a replay and its answer.

    Attributes:
        line: the log row's line.
        prompt: what was asked for.
        user: who asked, if the log says.
        kind: what the user did, if the log says.
        intended: when it should have been sent, seconds since the replay's start.
        sent: when it was sent.
        finished: when its answer was complete.
        error: why it failed, or None.
        verdict: the cache's verdict.
        reason: the verdict's reason.
        steps: N.
        skipped: K.
        wasted: steps run and thrown away.
        similarity: of the neighbour, or None.
        saved_gpu_seconds: as the service reports them.
        seed: the seed used.
        image: file name of the saved picture, or None.
    """

    line: int
    prompt: str
    user: str | None
    kind: str | None
    intended: float
    sent: float
    finished: float
    error: str | None = None
    verdict: str | None = None
    reason: str | None = None
    steps: int = 0
    skipped: int = 0
    wasted: int = 0
    similarity: float | None = None
    saved_gpu_seconds: float = 0.0
    seed: int | None = None
    image: str | None = None

    @property
    def latency(self) -> float:
        """Seconds from the intended start: waiting to be sent counts, as it would for a user."""
        return self.finished - self.intended


@dataclass(frozen=True, slots=True)
class Summary:
    """A replay in figures; shares are of answered requests.

    Attributes:
        requests: sent.
        failures: not answered, or answered wrongly.
        errors: failures by message.
        verdicts: answers by verdict.
        hit_share: share of exact and approximate hits.
        mean_skip_share: mean K/N over all answers.
        mean_skip_share_of_hits: mean K/N over approximate hits.
        steps_saved_share: (skipped - wasted) / N, summed over all answers.
        saved_gpu_seconds: as the answers report them.
        spent_gpu_seconds: what the service spent meanwhile, when it tells.
        gpu_saved_share: saved / (saved + spent), when known.
        latency_p50: seconds from the intended start.
        latency_p95: seconds from the intended start.
        latency_p99: seconds from the intended start.
        latency_mean: seconds from the intended start.
        duration: seconds from the first intended start to the last answer.
        throughput: answers per second.
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


def summarise(outcomes: Sequence[Outcome], spent_gpu_seconds: float | None = None) -> Summary:
    """Sum a replay up.

    Args:
        outcomes: in any order.
        spent_gpu_seconds: the service's own count over the replay, if known.
    """
    answered = [one for one in outcomes if one.error is None]
    failed = [one.error for one in outcomes if one.error is not None]
    if not answered:
        return Summary(len(outcomes), len(failed), errors=dict(Counter(failed)))
    latencies = [one.latency for one in answered]
    steps = sum(one.steps for one in answered)
    saved = sum(one.saved_gpu_seconds for one in answered)
    duration = max(one.finished for one in answered) - min(one.intended for one in outcomes)
    return Summary(
        requests=len(outcomes),
        failures=len(failed),
        errors=dict(Counter(failed)),
        verdicts=dict(sorted(Counter(one.verdict or "?" for one in answered).items())),
        hit_share=_mean([one.verdict in HITS for one in answered]),
        mean_skip_share=_mean([_skip_share(one) for one in answered]),
        mean_skip_share_of_hits=_mean([_skip_share(one) for one in answered if one.verdict == "APPROX"]),
        steps_saved_share=sum(one.skipped - one.wasted for one in answered) / steps if steps else 0.0,
        saved_gpu_seconds=saved,
        spent_gpu_seconds=spent_gpu_seconds,
        gpu_saved_share=_share(saved, spent_gpu_seconds),
        latency_p50=percentile(latencies, 50),
        latency_p95=percentile(latencies, 95),
        latency_p99=percentile(latencies, 99),
        latency_mean=statistics.fmean(latencies),
        duration=duration,
        throughput=len(answered) / duration if duration > 0 else 0.0,
    )


def percentile(values: Sequence[float], rank: float) -> float:
    """Nearest-rank percentile: a value that was measured, never one between two."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _skip_share(one: Outcome) -> float:
    return one.skipped / one.steps if one.steps else 0.0


def _share(saved: float, spent: float | None) -> float | None:
    return None if spent is None or saved + spent <= 0 else saved / (saved + spent)


def render(summary: Summary) -> str:
    """The summary as lines of text."""
    spent = summary.spent_gpu_seconds
    verdicts = ", ".join(f"{name} {count}" for name, count in summary.verdicts.items()) or "none"
    lines = [
        f"requests            {summary.requests}",
        f"failures            {summary.failures}",
        *(f"                    {count} x {error}" for error, count in summary.errors.items()),
        f"verdicts            {verdicts}",
        f"hits                {summary.hit_share:.1%}",
        f"mean K/N            {summary.mean_skip_share:.3f} (of hits: {summary.mean_skip_share_of_hits:.3f})",
        f"steps saved         {summary.steps_saved_share:.1%}",
        f"GPU seconds saved   {summary.saved_gpu_seconds:.2f}" + ("" if spent is None else f" (spent: {spent:.2f})"),
        f"latency             p50 {summary.latency_p50:.3f} s, p95 {summary.latency_p95:.3f} s, "
        f"p99 {summary.latency_p99:.3f} s, mean {summary.latency_mean:.3f} s, from the intended start",
        f"throughput          {summary.throughput:.3f} pictures/s over {summary.duration:.1f} s",
    ]
    return "\n".join(lines)


def write_report(path: Path, summary: Summary, outcomes: Sequence[Outcome], options: dict[str, Any]) -> None:
    """Write everything as one JSON object."""
    content = {
        "options": options,
        "summary": asdict(summary),
        "outcomes": [{**asdict(one), "latency": one.latency} for one in outcomes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=True) + "\n", encoding="utf-8")


ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("requests", "requests", "{:.0f}".format),
    ("failures", "failures", "{:.0f}".format),
    ("hits", "hit_share", "{:.1%}".format),
    ("mean K/N", "mean_skip_share", "{:.3f}".format),
    ("steps saved", "steps_saved_share", "{:.1%}".format),
    ("GPU seconds saved", "saved_gpu_seconds", "{:.2f}".format),
    ("GPU seconds spent", "spent_gpu_seconds", "{:.2f}".format),
    ("latency p50, s", "latency_p50", "{:.3f}".format),
    ("latency p95, s", "latency_p95", "{:.3f}".format),
    ("latency p99, s", "latency_p99", "{:.3f}".format),
    ("pictures/s", "throughput", "{:.3f}".format),
)


def compare(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> str:
    """Two summaries side by side as a Markdown table, with the ratio where it means something."""
    lines = [f"| | {names[0]} | {names[1]} | ratio |", "|---|---|---|---|"]
    for title, key, shape in ROWS:
        a, b = first[key], second[key]
        cells = ["–" if value is None else shape(value) for value in (a, b)]
        ratio = f"{a / b:.3f}" if a and b and key not in ("requests", "failures") else "–"
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Compare the two report files named on the command line."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m loadtest.report FIRST.json SECOND.json\n")
        return 2
    paths = [Path(argument) for argument in arguments]
    try:
        first, second = (json.loads(path.read_text(encoding="utf-8"))["summary"] for path in paths)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"not a replay report: {error}\n")
        return 2
    sys.stdout.write(compare(first, second, (paths[0].stem, paths[1].stem)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
