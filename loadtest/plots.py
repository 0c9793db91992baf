"""Plots of a load test, as SVG text that refers to nothing outside itself."""

import io
import math
import re
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.figures import Slo
from loadtest.outcomes import Outcome
from loadtest.report import Report, Run
from loadtest.timeline import FAILED, cut, width_for

VERDICT_COLOURS = {
    "EXACT": "#0b7285",
    "APPROX": "#4dabf7",
    "MISS": "#adb5bd",
    "BYPASS": "#868e96",
    "REFRESH": "#ced4da",
    FAILED: "#c92a2a",
}
MANY = 1000
"""More points than this are drawn small, under the lines, and as a picture inside the SVG, to keep it small."""

INK, GRID, CONTROL, GOOD, LIMIT = "#212529", "#dee2e6", "#e8590c", "#2b8a3e", "#c92a2a"
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#adb5bd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def latency_over_time(report: Report) -> str:
    """Every request, and the percentiles of each piece of time, one panel for each run."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(report.runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, run in zip(axes, report.runs, strict=True):
            _latencies(axis, run, report.slo, _width(report))
        signs = {label: sign for axis in axes for sign, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        order = sorted(signs, key=[*VERDICT_COLOURS, "p50", "p95", "p99", "SLO"].index)
        scale = 2.5 if any(_dense(run) for run in report.runs) else 1.0
        place = {
            "markerscale": scale,
            "loc": "lower left",
            "bbox_to_anchor": (0, 1.06),
            "ncol": 5 + len(VERDICT_COLOURS),
        }
        axes[0].legend(
            [signs[name] for name in order], order, columnspacing=1.0, handletextpad=0.4, handlelength=1.6, **place
        )
        axes[-1].set_xlabel("intended start, seconds into the run")

    return _svg(draw, height=0.6 + 2.7 * len(report.runs))


def latency_spread(report: Report) -> str:
    """Share of requests answered within a time, the time in multiples of what the work takes alone."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for run, colour in zip(report.runs, (VERDICT_COLOURS["EXACT"], CONTROL), strict=False):
            values = sorted(_relative(one, report.slo) for one in run.outcomes if one.answered)
            if values:
                shares = [100 * (index + 1) / len(run.outcomes) for index in range(len(values))]
                axis.step(values, shares, where="post", color=colour, linewidth=2, label=run.name)
        relative = bool(report.slo.standalone)
        limit = report.slo.factor if relative else report.slo.seconds
        if limit is not None:
            axis.axvline(
                limit, color=LIMIT, linestyle="--", linewidth=1.2, label=f"SLO ({limit:g}{'×' if relative else ' s'})"
            )
        axis.set_xscale("log")
        axis.set_ylim(0, 102)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("latency from the intended start, " + ("× the time alone" if relative else "seconds"))
        axis.set_ylabel("requests answered, %")
        axis.legend(loc="lower right")

    return _svg(draw, height=3.2)


def goodput_over_time(report: Report) -> str:
    """Requests due per second, and those answered within the SLO."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        width = _width(report)
        due = [piece.requests / width for piece in cut(report.runs[0].outcomes, width)]
        axis.bar(_edges(due, width)[:-1], due, width, align="edge", color="#e9ecef", label="due")
        for run, colour in zip(report.runs, (GOOD, CONTROL), strict=False):
            good = [piece.good / width for piece in cut(run.outcomes, width, report.slo)]
            axis.stairs(good, _edges(good, width), color=colour, linewidth=2, label=f"{run.name}: good")
        axis.set_xlabel("intended start, seconds into the run")
        axis.set_ylabel("requests/s")
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=3)

    return _svg(draw, height=3.0)


def mix_over_time(run: Run, width: float) -> str:
    """What the cache made of the requests of each piece of time, in shares."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        pieces = [piece for piece in cut(run.outcomes, width) if piece.requests]
        bottoms = [0.0] * len(pieces)
        for name, colour in VERDICT_COLOURS.items():
            shares = [100 * piece.mix.get(name, 0) / piece.requests for piece in pieces]
            if any(shares):
                starts = [piece.start for piece in pieces]
                axis.bar(starts, shares, 0.94 * width, bottoms, align="edge", color=colour, label=name)
            bottoms = [bottom + share for bottom, share in zip(bottoms, shares, strict=True)]
        axis.set_xlabel("intended start, seconds into the run")
        axis.set_ylabel("requests, %")
        axis.set_ylim(0, 100)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=6)

    return _svg(draw, height=3.0)


def gpu_seconds(report: Report) -> str:
    """GPU seconds spent so far in each run, and what the answers say was saved."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for run, colour in zip(report.runs, (VERDICT_COLOURS["EXACT"], CONTROL), strict=False):
            _running_total(axis, run, lambda one: one.spent_gpu_seconds or 0.0, f"{run.name}: spent", colour, "-")
        saved = "saved, by the answers"
        _running_total(axis, report.runs[0], lambda one: one.saved_gpu_seconds, saved, GOOD, ":")
        axis.set_xlabel("answered, seconds into the run")
        axis.set_ylabel("GPU seconds so far")
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left")

    return _svg(draw, height=3.0)


def comebacks(points: Sequence[tuple[float, bool]]) -> str:
    """Comebacks by the time that `Retry-After` had named: let in, or refused again."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        waits = sorted({wait for wait, _ in points})
        places = range(len(waits))
        accepted = [sum(ok for wait, ok in points if wait == one) for one in waits]
        again = [sum(not ok for wait, ok in points if wait == one) for one in waits]
        axis.bar(places, accepted, color=GOOD, label="let in")
        axis.bar(places, again, bottom=accepted, color=LIMIT, label="refused again")
        axis.set_xticks(places, [f"{wait:g}" for wait in waits])
        axis.set_xlabel("Retry-After, seconds")
        axis.set_ylabel("comebacks")
        axis.grid(visible=False, axis="x")
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=2)

    return _svg(draw, height=2.8)


def _latencies(axis: Axes, run: Run, slo: Slo, width: float) -> None:
    dense = _dense(run)
    for name, colour in VERDICT_COLOURS.items():
        chosen = [one for one in run.outcomes if (one.verdict or FAILED) == name and one.answered == (name != FAILED)]
        if chosen:
            sign = "x" if name == FAILED else "o"
            places = [one.intended for one in chosen], [max(one.latency, 1e-3) for one in chosen]
            axis.scatter(
                *places, marker=sign, color=colour, linewidths=1 if sign == "x" else 0, label=name,
                s=5 if dense else 16, alpha=0.4 if dense else 0.75, zorder=1.5 if dense else 3, rasterized=dense,
            )  # fmt: skip
    pieces = cut(run.outcomes, width)
    starts = _edges(pieces, width)
    for label, style, values in (
        ("p50", "-", [piece.p50 or math.nan for piece in pieces]),
        ("p95", "--", [piece.p95 or math.nan for piece in pieces]),
        ("p99", ":", [piece.p99 or math.nan for piece in pieces]),
    ):
        axis.step(starts, [*values, *values[-1:]], style, where="post", color=INK, linewidth=1.3, label=label)
    limits = sorted({slo.limit(one.asked) for one in run.outcomes}) if slo.known else []
    if len(limits) == 1:
        axis.axhline(limits[0], color=LIMIT, linestyle=(0, (6, 3)), linewidth=1.2, label="SLO")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ylabel("latency, s")
    axis.set_title(run.name, loc="right", fontsize=10, color="#495057")


def _running_total(
    axis: Axes, run: Run, value: Callable[[Outcome], float], label: str, colour: str, style: str
) -> None:
    times, totals, total = [0.0], [0.0], 0.0
    for one in sorted(run.outcomes, key=lambda one: one.finished):
        total += value(one)
        times.append(one.finished)
        totals.append(total)
    axis.step(times, totals, style, where="post", color=colour, linewidth=2, label=label)


def _relative(one: Outcome, slo: Slo) -> float:
    alone = slo.standalone.get(one.asked, 1.0) if slo.standalone else 1.0
    return max(one.latency, 1e-3) / alone


def _dense(run: Run) -> bool:
    return len(run.outcomes) > MANY


def _edges(values: Sequence[object], width: float) -> list[float]:
    return [index * width for index in range(len(values) + 1)]


def _width(report: Report) -> float:
    return width_for(max(one.intended for one in report.runs[0].outcomes))


def _svg(draw: Callable[[Figure], None], *, height: float) -> str:
    with plt.rc_context({**STYLE, "svg.hashsalt": draw.__qualname__}):
        figure = plt.figure(figsize=(9.0, height), layout="constrained")
        draw(figure)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return _bare(sink.getvalue())


def _bare(text: str) -> str:
    """Leave out the prologue and metadata, which name other hosts, and the fixed size, which fits no phone."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    return re.sub(r'\s(width|height)="[^"]*"', "", head) + ">" + rest
