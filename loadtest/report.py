"""What a replay came to: its runs, as text, as JSON, and compared.

`python -m loadtest.report cached.json uncached.json` compares two files written by `--report`.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from loadtest.figures import Slo, Summary, summarise
from loadtest.generator import Generator, judge_generator, lateness_limit
from loadtest.outcomes import Outcome

if TYPE_CHECKING:
    from loadtest.conductor import Take
    from loadtest.options import Choices

TOLD = (
    "log", "limit", "cache_mode", "seed_column", "sizes", "steps", "skew", "dice", "arrivals", "rate", "load",
    "speed", "cv", "on", "off", "retry", "retries", "retry_wait", "answer_timeout", "probes", "slo_factor",
    "slo_seconds", "max_lateness", "host", "num_users",
)  # fmt: skip
"""The options that reports repeat."""


@dataclass(frozen=True)
class Run:
    """One pass over the schedule."""

    name: str
    cache_mode: str
    outcomes: list[Outcome]
    summary: Summary
    generator: Generator


@dataclass(frozen=True)
class Report:
    """A replay.

    Attributes:
        options: as given.
        facts: what the service said of itself before.
        standalone: seconds of the requests that stood alone, by class of work.
        slo: the limit on latency.
        runs: the replay, and the uncached control run if there was one.
        stopped: why it ended early, or None.
        open_loop: whether requests were sent when due, whatever the service did.
    """

    options: dict[str, Any]
    facts: dict[str, Any]
    standalone: dict[str, list[float]]
    slo: Slo
    runs: list[Run]
    stopped: str | None = None
    open_loop: bool = True

    @property
    def faults(self) -> list[str]:
        """Why the figures say nothing about the service; empty if they do."""
        ended = [] if self.stopped is None else [self.stopped]
        return ended + [f"{run.name}: {fault}" for run in self.runs for fault in run.generator.faults]

    @property
    def valid(self) -> bool:
        """Whether the load generator kept up, and the replay came to its end."""
        return not self.faults

    @property
    def control(self) -> Run | None:
        """The uncached control run."""
        return self.runs[1] if len(self.runs) > 1 else None


def make_report(
    choices: "Choices",
    takes: "Sequence[Take]",
    standalone: dict[str, list[float]],
    facts: dict[str, Any],
    stopped: str | None,
) -> Report:
    """Work a replay out."""
    given = choices.given
    alone = {asked: median(times) for asked, times in standalone.items()}
    slo = Slo(alone, given["slo_factor"], given["slo_seconds"] or None)
    limit = lateness_limit(list(alone.values()), given["max_lateness"])
    runs = [
        run_of(take.name, take.cache_mode, take.outcomes, slo, take.stalls, len(choices.schedule), limit)
        for take in takes
    ]
    options = {name: given[name] for name in TOLD}
    return Report(options, facts, standalone, slo, runs, stopped, choices.timed)


def run_of(
    name: str,
    cache_mode: str,
    outcomes: Sequence[Outcome],
    slo: Slo,
    stalls: Sequence[float],
    scheduled: int,
    limit: float,
) -> Run:
    """Work one run out; the outcomes may come in any order."""
    ordered = sorted(outcomes, key=lambda one: (one.intended, one.number))
    return Run(name, cache_mode, ordered, summarise(ordered, slo), judge_generator(ordered, stalls, scheduled, limit))


def render_report(report: Report) -> str:
    """The figures as lines of text."""
    lines = [render(report.runs[0].summary)]
    if report.control is not None and report.control.outcomes:
        lines.append(f"\n{report.control.name}\n{render(report.control.summary)}")
    lines.append(render_generator(report.runs[0].generator))
    lines += [f"NOT VALID: {fault}" for fault in report.faults]
    return "\n".join(lines)


def render(summary: Summary) -> str:
    """One run's figures as lines of text."""
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
    if summary.goodput is not None and summary.attainment is not None:
        lines.append(
            f"goodput             {summary.goodput:.3f} pictures/s within the SLO ({summary.attainment:.1%})"
        )
    return "\n".join(lines)


def render_generator(generator: Generator) -> str:
    """How well the load was generated, as a line of text."""
    return (
        f"load generator      late p50 {generator.lateness_p50:.4f} s, p99 {generator.lateness_p99:.4f} s, "
        f"max {generator.lateness_max:.4f} s; stalls p99 {generator.stall_p99:.4f} s (limit {generator.limit:.3f} s)"
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report as one JSON object: the replay on top, the control run under `control`. No prompts, no keys."""
    runs = [_run_json(run) for run in report.runs]
    return {
        "options": report.options,
        "service": report.facts,
        "open_loop": report.open_loop,
        "valid": report.valid,
        "faults": report.faults,
        "standalone": report.standalone,
        "slo": {"factor": report.slo.factor, "seconds": report.slo.seconds},
        **runs[0],
        "control": runs[1] if len(runs) > 1 else None,
    }


def write_json(path: Path, report: Report) -> None:
    """Write everything as one JSON object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(report), indent=1, allow_nan=True) + "\n", encoding="utf-8")


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "summary": asdict(run.summary),
        "generator": {"valid": run.generator.valid, **asdict(run.generator)},
        "outcomes": [{**asdict(one), "latency": one.latency} for one in run.outcomes],
    }


@dataclass(frozen=True)
class Line:
    """One line of a comparison: title, key of the summary, how to write it, whether a ratio means something."""

    title: str
    key: str
    shape: Callable[[float], str]
    ratio: bool = field(default=True)


LINES = (
    Line("requests", "requests", "{:.0f}".format, ratio=False),
    Line("failures", "failures", "{:.0f}".format, ratio=False),
    Line("hits", "hit_share", "{:.1%}".format),
    Line("mean K/N", "mean_skip_share", "{:.3f}".format),
    Line("steps saved", "steps_saved_share", "{:.1%}".format),
    Line("GPU seconds saved, by the answers", "saved_gpu_seconds", "{:.2f}".format, ratio=False),
    Line("GPU seconds spent", "spent_gpu_seconds", "{:.2f}".format),
    Line("latency p50, s", "latency_p50", "{:.3f}".format),
    Line("latency p95, s", "latency_p95", "{:.3f}".format),
    Line("latency p99, s", "latency_p99", "{:.3f}".format),
    Line("pictures/s", "throughput", "{:.3f}".format),
    Line("within the SLO", "attainment", "{:.1%}".format),
    Line("goodput, pictures/s", "goodput", "{:.3f}".format),
)


def compare_rows(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """Two summaries side by side, with the ratio where it means something."""
    rows = []
    for line in LINES:
        a, b = first.get(line.key), second.get(line.key)
        cells = ["–" if value is None or math.isnan(value) else line.shape(value) for value in (a, b)]
        ratio = f"{a / b:.3f}" if a and b and line.ratio else "–"
        rows.append([line.title, *cells, ratio])
    return rows


def compare(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> str:
    """Two summaries side by side as a Markdown table."""
    head = [f"| | {names[0]} | {names[1]} | ratio |", "|---|---|---|---|"]
    return "\n".join(head + ["| " + " | ".join(row) + " |" for row in compare_rows(first, second)])


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
