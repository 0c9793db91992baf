"""The picture of `benchmarks/overload.py`: goodput by load, and by the weight of the second stage."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

ARMS = {"admission": ("predicted finish", "#2680c2"), "none": ("no admission", "#cb6e17")}
POLICIES = {
    "queue-limit": "#cb6e17",
    "early-rejection": "#7b8794",
    "early-rejection-predicted": "#3e4c59",
    "predicted-finish": "#2680c2",
}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG with three panels."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.4), dpi=110)
    _goodput(axes[0], report["rows"])
    _tenants(axes[1], report["fairness"])
    _stages(axes[2], report["stages"])
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _goodput(axis: Axes, rows: list[dict[str, Any]]) -> None:
    for arm, (name, colour) in ARMS.items():
        found = sorted((row for row in rows if row["arm"] == arm), key=lambda row: float(row["load"]))
        loads = [row["load"] for row in found]
        axis.plot(loads, [row["goodput_over_capacity"] for row in found], "o-", color=colour, label=name)
        if arm == "admission":
            best = [row["attainable_over_capacity"] for row in found]
            axis.plot(loads, best, "--", color="#1f2933", lw=1, label="attainable")
    axis.set(title="in time", xlabel="load ÷ capacity", ylabel="goodput ÷ capacity", ylim=(0, 1.1))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _tenants(axis: Axes, fairness: dict[str, Any]) -> None:
    width = 0.8 / len(fairness)
    for place, (kind, found) in enumerate(fairness.items()):
        spots = [index + place * width for index in range(len(found["shares"]))]
        colour = list(ARMS.values())[1 - place][1]
        axis.bar(spots, found["shares"].values(), width, color=colour, label=f"{kind}: Jain {found['jain']:.2f}")
    names = list(next(iter(fairness.values()))["shares"])
    axis.set_xticks([index + width / 2 for index in range(len(names))], names)
    axis.axhline(1 / len(names), color="#1f2933", lw=0.8)
    axis.set(title="three tenants that all want more", ylabel="share of the device")
    axis.legend(fontsize=8)


def _stages(axis: Axes, rows: list[dict[str, Any]]) -> None:
    shares = [row["decode_over_denoise"] for row in rows]
    for name, colour in POLICIES.items():
        axis.plot(shares, [row[name]["goodput"] for row in rows], "o-", color=colour, label=name)
    axis.set(title="a second stage beside the steps (simulation)", xlabel="decoding ÷ denoising", ylim=(0, 1.1))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)


if __name__ == "__main__":
    draw_saved("overload", draw)
