"""The picture of `benchmarks/features`: quality against speed, method by method, resumed, and everything together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

Row = dict[str, Any]
NAMES = {"unet": "scenes-unet", "dit": "scenes-dit"}
COLOURS = [matplotlib.colormaps["tab20"](number) for number in range(20)]
FEWER = "#111111"
SPEEDS = (1, 1.5, 2, 3, 4, 5, 6, 8)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG: one row per model; judge, PSNR, resumed runs, and runs around N*."""
    models = report["models"]
    figure, grid = plt.subplots(len(models), 4, figsize=(22, 5.4 * len(models)), dpi=90, squeeze=False)
    for axes, (name, part) in zip(grid, models.items(), strict=True):
        _methods(axes[0], part["screened"], lambda row: row["score_ratio"]["value"], fewer=True)
        axes[0].set_title(f"{NAMES[name]}: 50 steps with feature caching, or fewer steps", fontsize=10)
        axes[0].set_ylabel("judge score ÷ that of 50 steps")
        axes[0].axhline(0.99, color="#999999", linewidth=0.8, linestyle=":")
        _methods(axes[1], part["screened"], lambda row: row["psnr"]["mean"], fewer=False)
        axes[1].set_title("distance from the uncached picture", fontsize=10)
        axes[1].set_ylabel("PSNR, dB (mean of pictures)")
        axes[1].legend(fontsize=6, ncol=2)
        _resumed(axes[2], part["multiplied"])
        _short(axes[3], part["short"])
        axes[3].axhline(0.99, color="#999999", linewidth=0.8, linestyle=":")
        for axis in axes:
            axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _methods(axis: Axes, rows: list[Row], value: Callable[[Row], float], *, fewer: bool) -> None:
    policies = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] and not row["reason"]))
    for number, policy in enumerate(policies):
        own = sorted((row for row in rows if row["policy"] == policy), key=lambda row: row["strength"])
        points = [(row["speedup"]["value"], value(row)) for row in own]
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=policy, color=colour)
    if fewer:
        for solver, style in (("dpmpp_2m", "-"), ("ddim", "--")):
            own = [row for row in rows if row["policy"] is None and row["solver"] == solver and row["steps"] < 50]
            points = sorted((row["speedup"]["value"], value(row)) for row in own)
            axis.plot(*zip(*points, strict=True), style, marker="s", markersize=4, color=FEWER, label=f"{solver}")
        axis.legend(fontsize=6, ncol=2, loc="lower left")
    axis.set_xscale("log")
    axis.set_xticks(SPEEDS, [f"{speed:g}" for speed in SPEEDS])
    axis.minorticks_off()
    axis.set_xlabel("wall clock: times as fast as 50 steps")


def _resumed(axis: Axes, rows: list[Row]) -> None:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    for number, policy in enumerate(policies):
        for warmup, style in ((0, "-"), (2, "--")):
            own = [row for row in rows if row["policy"] == policy and row["resume_warmup"] == warmup]
            points = sorted((row["entry"], row["both"], row["resume_alone"] * row["features_alone"]) for row in own)
            if not points:
                continue
            entries, both, product = zip(*points, strict=True)
            colour = COLOURS[2 * number]
            label = f"{policy}, warm-up {warmup}"
            axis.plot(entries, both, style, marker="o", markersize=4, color=colour, label=label)
            if warmup == 0:
                axis.plot(entries, product, ":", color=colour, linewidth=1)
    axis.set_title("resumed at K with feature caching (dotted: product of the two)", fontsize=10)
    axis.set_xlabel("K of 50")
    axis.set_ylabel("wall clock: times as fast as 50 steps")
    axis.legend(fontsize=6)


def _short(axis: Axes, rows: list[Row]) -> None:
    kinds: tuple[tuple[str, Callable[[Row], bool], str, str], ...] = (
        ("fewer steps", lambda row: not row["policy"] and not row["entry"] and row["steps"] < 50, FEWER, "s"),
        ("+ resume", lambda row: not row["policy"] and row["entry"] > 0, "#2680c2", "o"),
        ("+ features", lambda row: bool(row["policy"]) and not row["entry"], "#d64545", "^"),
        ("+ resume + features", lambda row: bool(row["policy"]) and row["entry"] > 0, "#2f9e44", "D"),
    )
    for label, wanted, colour, marker in kinds:
        own = [row for row in rows if wanted(row)]
        speeds, scores = ([row[name]["value"] for row in own] for name in ("speedup", "score_ratio"))
        axis.plot(speeds, scores, marker, markersize=4, color=colour, label=label, alpha=0.8)
    axis.set_title("around N*: resume × features × fewer steps", fontsize=10)
    axis.set_xlabel("wall clock: times as fast as 50 steps")
    axis.set_ylabel("judge score ÷ that of 50 steps")
    axis.legend(fontsize=7)


if __name__ == "__main__":
    draw_saved("features", draw)
