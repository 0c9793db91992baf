"""The picture of `benchmarks/batching.py`: throughput by mix and system, beside what the step counts allow."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

LEVELS = (
    ("diffusers_one", "diffusers, one at a time", "#9aa5b1", ":"),
    ("diffusers_static", "diffusers, static batches", "#3e4c59", "--"),
)
LINES = (("apart", "apart", "#cb6e17"), ("joined", "joined", "#2680c2"))


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG with one picture per number type."""
    sections = report["sections"]
    figure, axes = plt.subplots(1, len(sections), figsize=(6.5 * len(sections), 4.6), dpi=110, squeeze=False)
    for axis, section in zip(axes[0], sections, strict=True):
        _section(axis, section)
    axes[0][0].set_ylabel("pictures per second")
    axes[0][0].legend(fontsize=8, loc="upper left")
    first = sections[0]
    figure.suptitle(
        f"Throughput by share of approximate hits  (N = {first['steps']}, K = {first['skips'][0]} to "
        f"{first['skips'][-1]}, batches of {first['max_batch']}, 95 % intervals over rounds)",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _section(axis: Axes, section: dict[str, Any]) -> None:
    rows = section["systems"]
    fixed = {row["system"]: row["pictures_per_second"] for row in rows if row["hits"] == 0}
    for name, label, colour, style in LEVELS:
        axis.axhline(fixed[name]["value"], color=colour, linestyle=style, label=label)
    start = fixed["uncached"]
    for name, label, colour in LINES:
        zero = start if name == "joined" else fixed[name]
        _curve(axis, [row for row in rows if row["system"] == name and row["hits"]], zero, label, colour)
    mixes = sorted((mix["hits"], mix["step_count_ratio"]) for mix in _spread(section))
    ideal = [start["value"] * ratio for _, ratio in mixes]
    hits = [hits for hits, _ in mixes]
    axis.plot([0, *hits], [start["value"], *ideal], ":", color="#2680c2", label="uncached × step-count ratio")
    axis.set_xticks([0, 25, 50, 75])
    axis.set_xlim(-4, 104)
    axis.set_ylim(bottom=0, top=1.25 * max(row["pictures_per_second"]["high"] for row in rows))
    axis.set_xlabel("approximate hits, % of requests (without any, joined is uncached)")
    axis.set_title(section["dtype"], fontsize=10)
    axis.grid(alpha=0.25)


def _spread(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The mixes whose hits enter at many steps; the one at a single K lies on another curve."""
    return [mix for name, mix in section["mixes"].items() if "K =" not in name]


def _curve(axis: Axes, rows: list[dict[str, Any]], start: dict[str, float], label: str, colour: str) -> None:
    spread = [row for row in rows if len(row["skips"]) > 1]
    points = [(0, start), *((row["hits"], row["pictures_per_second"]) for row in spread)]
    hits, figures = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    values = [figure["value"] for figure in figures]
    axis.plot(hits, values, marker="o", markersize=4, color=colour, label=label)
    axis.fill_between(hits, [f["low"] for f in figures], [f["high"] for f in figures], color=colour, alpha=0.12)
    for row in rows:
        if len(row["skips"]) == 1:
            axis.plot(row["hits"], row["pictures_per_second"]["value"], "*", markersize=10, color=colour)
            axis.annotate(
                f"{label}, all K = {row['skips'][0]}", (row["hits"], row["pictures_per_second"]["value"]),
                textcoords="offset points", xytext=(8, -3), ha="left", fontsize=7, color=colour,
            )  # fmt: skip


if __name__ == "__main__":
    draw_saved("batching", draw)
