"""The picture of `benchmarks/eviction.py`: saved compute over cache size, per workload and table."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

MARKED = {"oracle": ("#1f2933", "--"), "nirvana: lcbfu": ("#d64545", ":"), "modm: fifo": ("#cb6e17", ":")}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG with one panel per workload and table."""
    cases = report["cases"]
    figure, axes = plt.subplots(1, len(cases), figsize=(4.4 * len(cases), 4.4), dpi=110, squeeze=False)
    for axis, case in zip(axes[0], cases, strict=True):
        _panel(axis, case, [100 * share for share in report["shares"]])
    axes[0][0].set_ylabel("steps saved, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _panel(axis: Axes, case: dict[str, Any], sizes: list[float]) -> None:
    for name, row in case["policies"].items():
        colour, style = MARKED.get(name, (None, "-"))
        saved = [100 * figure["value"] for figure in row["saved"]]
        axis.plot(sizes, saved, style, color=colour, marker=".", linewidth=1.3, label=name)
    axis.axhline(100 * case["ceiling"], color="#9aa5b1", linewidth=0.8)
    axis.set_title(f"{case['workload']}, table {case['table']}", fontsize=9)
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axis.set_xlabel("cache size, % of all states")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)


if __name__ == "__main__":
    draw_saved("eviction", draw)
