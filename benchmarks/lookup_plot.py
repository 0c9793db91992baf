"""The picture of `benchmarks/lookup.py`: how latency, recall and memory grow with the store."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

LINES = (
    ("still", "at rest", "#2680c2"),
    ("live", "adds and deletes", "#cb6e17"),
    ("training", "training", "#9446ed"),
    ("exact", "FAISS exact", "#7b8794"),
    ("hnsw", "FAISS HNSW (no deletes)", "#199473"),
)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG: latency, recall over lists looked into, and bytes, against the number of entries."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.3), dpi=110)
    _latency(axes[0], report["sizes"])
    for row in report["sizes"]:
        if row["sweep"]:
            points = [(one["p50_ms"], one["recall"]) for one in row["sweep"]]
            axes[1].plot(*zip(*points, strict=True), marker="o", label=f"{row['n']:,}")
    axes[1].set(xscale="log", xlabel="median, ms", title="recall over lists looked into")
    for name, label in (("bytes_per_entry", "in memory"), ("snapshot_bytes_per_entry", "on disk")):
        axes[2].plot(
            [r["n"] for r in report["sizes"]], [r["n"] * r[name] for r in report["sizes"]], "o-", label=label
        )
    axes[2].set(xscale="log", yscale="log", xlabel="entries", title="bytes")
    for axis in axes:
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _latency(axis: Axes, rows: list[dict[str, Any]]) -> None:
    for name, label, colour in LINES:
        known = [row for row in rows if row.get(name) and np.isfinite(row[name]["p50_ms"])]
        sizes = [row["n"] for row in known]
        power = _power(sizes, [row[name]["p50_ms"] for row in known])
        axis.plot(sizes, [row[name]["p50_ms"] for row in known], "o-", color=colour, label=f"{label}{power}")
        axis.plot(sizes, [row[name]["p99_ms"] for row in known], ":", color=colour, linewidth=1)
    axis.axhline(2, color="#d64545", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="entries", title="a search, ms (dotted: p99)")


def _power(sizes: list[int], values: list[float]) -> str:
    """Return the growth law's exponent, as the slope of the logarithms."""
    if len(sizes) < 2:
        return ""
    return f", n^{np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}"


if __name__ == "__main__":
    draw_saved("lookup", draw)
