"""The picture of `benchmarks/resume.py`: judge score against skipped share, beside the honest baselines."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

SERIES = (
    ("full_50", "50 steps", "#9aa5b1", "--"),
    ("full_nstar", "N* steps", "#3e4c59", "--"),
    ("scratch", "fewer steps, equal compute", "#d64545", "-"),
    ("neighbour", "neighbour's picture unchanged", "#cb6e17", ":"),
    ("resumed", "resumed", "#2680c2", "-"),
)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG: every pair with the gate open, only pairs the table accepts, and by kind of edit."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), dpi=110)
    levels = report["curve"]
    _lines(axes[0], levels, "all", "every neighbour, gate open")
    _lines(
        axes[1],
        [level for level in levels if level["accepted_share"] > 0],
        "inside_table",
        "inside the shipped table",
    )
    for level in levels:
        if level["accepted_share"] > 0:
            axes[1].annotate(
                f"{level['accepted_share']:.0%} accepted",
                (100 * level["skip"], level["inside_table"]["resumed"]["value"]),
                textcoords="offset points", xytext=(0, -14), ha="center", fontsize=7, color="#2680c2",
            )  # fmt: skip
    _kinds(axes[2], levels)
    axes[0].set_ylabel("attributes right (judge)")
    axes[0].legend(fontsize=7, loc="lower left")
    low = min(axis.get_ylim()[0] for axis in axes[:2])
    for axis in axes[:2]:
        axis.set_ylim(low, 1.0)
    star = report["n_star"]
    figure.suptitle(
        f"Resume or run fewer steps?  N* = {star['n_star']} ({star['solver']}), "
        f"{report['pairs']} held-out pairs, 95 % intervals"
    )
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _lines(axis: Axes, levels: list[dict[str, Any]], group: str, title: str) -> None:
    skips = [100 * level["skip"] for level in levels]
    for name, label, colour, style in SERIES:
        figures = [level[group][name] for level in levels]
        values = [f["value"] for f in figures]
        axis.plot(skips, values, style, color=colour, label=label, marker="o" if style == "-" else None, markersize=4)
        if style == "-":
            axis.fill_between(
                skips, [f["low"] for f in figures], [f["high"] for f in figures], color=colour, alpha=0.12
            )
    axis.set_xlabel("steps skipped, % of N*")
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)


def _kinds(axis: Axes, levels: list[dict[str, Any]]) -> None:
    for kind in levels[0]["by_kind"]:
        values = [level["by_kind"][kind]["resumed"]["value"] for level in levels]
        axis.plot([100 * level["skip"] for level in levels], values, marker="o", markersize=4, label=kind)
    axis.set_xlabel("steps skipped, % of N*")
    axis.set_title("resumed with the gate open, by what changed", fontsize=10)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axis.grid(alpha=0.25)


if __name__ == "__main__":
    draw_saved("resume", draw)
