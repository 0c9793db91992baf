"""The picture of `benchmarks/pareto.py`: quality against device time, both models in one plot."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.pareto import front
from benchmarks.plotting import draw_saved

KINDS = (
    (False, False, "from scratch: fewer steps", "-", "s"),
    (True, False, "head start", "-", "o"),
    (False, True, "feature caching", ":", "^"),
    (True, True, "head start and feature caching", ":", "D"),
)
COLOURS = {
    "scenes-unet": ("#d64545", "#2680c2", "#e5a3a3", "#7fb8e6"),
    "scenes-dit": ("#8a4baf", "#27ab83", "#c9a6de", "#8fdcc5"),
}
TICKS = (1, 2, 3, 4, 6, 8, 12, 16)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG."""
    figure, axis = plt.subplots(figsize=(11, 6.2), dpi=110)
    for model, found in report["models"].items():
        rows = found["arms"]
        for (cached, features, label, style, marker), colour in zip(KINDS, COLOURS[model], strict=True):
            own = [row for row in rows if (row["cached"], row["features"]) == (cached, features)]
            _line(axis, own, f"{model}: {label}", style=style, marker=marker, colour=colour)
    best = front([row for found in report["models"].values() for row in found["arms"]])
    spots = [(row["speedup_over_first"], row["score"]["value"]) for row in best]
    axis.step(*zip(*spots, strict=True), where="pre", color="#3e4c59", linewidth=5, alpha=0.15, label="front")
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_xlabel("device time of 50 steps of scenes-unet ÷ device time, per request (log scale)")
    axis.set_ylabel("attributes right (judge)")
    axis.set_title(
        f"{report['sessions']} held-out sessions, all answers counted, misses and repeats included", fontsize=10
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="lower left", ncol=2)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _line(axis: Any, rows: list[dict[str, Any]], label: str, *, style: str, marker: str, colour: str) -> None:
    own = sorted(rows, key=lambda row: float(row["speedup_over_first"]))
    x, y = [row["speedup_over_first"] for row in own], [row["score"]["value"] for row in own]
    axis.plot(x, y, style, marker=marker, markersize=5, linewidth=1.3, color=colour, label=label)
    for row in own:
        axis.annotate(
            str(row["steps"]), (row["speedup_over_first"], row["score"]["value"]), fontsize=6, color=colour,
            textcoords="offset points", xytext=(4, 4),
        )  # fmt: skip


if __name__ == "__main__":
    draw_saved("pareto", draw)
