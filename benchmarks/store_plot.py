"""The picture of `benchmarks/store.py`: speed and amplification of writes, latency of reads against a step."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

COLOURS = {
    "ours": "#2680c2",
    "files": "#7b8794",
    "LMDB": "#cb6e17",
    "files, synced": "#cbd2d9",
    "LMDB, synced": "#f7d070",
}
PLACES = {
    "RAM tier": "#2680c2",
    "local disk, warm": "#7b8794",
    "local disk, cold": "#3e4c59",
    "S3 server on loopback": "#cb6e17",
}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG with three panels."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.4), dpi=110)
    _bars(axes[0], report["writes"], "system", "mb_per_second", COLOURS)
    axes[0].set(title="states written", ylabel="MB/s", yscale="log")
    _bars(axes[1], report["writes"], "system", "write_amplification", COLOURS)
    axes[1].axhline(1, color="#1f2933", linewidth=0.8)
    axes[1].set(title="write amplification", ylabel="bytes to the disk ÷ bytes of states")
    axes[0].legend(fontsize=7)
    _bars(axes[2], report["reads"], "place", "p50_ms", PLACES)
    _spread(axes[2], report["reads"])
    for style, (model, step) in zip(("--", ":"), report["step_ms"].items(), strict=False):
        axes[2].axhline(step, color="#d64545", linestyle=style, linewidth=1, label=f"one step of {model}")
    axes[2].set(title="one state loaded: median, line to the 99th percentile", ylabel="ms", yscale="log")
    axes[2].set_ylim(top=100 * max(row["p99_ms"] for row in report["reads"]))
    axes[2].legend(fontsize=7, ncol=2, loc="upper left")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _at(
    rows: list[dict[str, Any]], kinds: list[str], key: str, kind: str
) -> tuple[list[float], list[dict[str, Any]]]:
    """Return where the bars of one kind stand, and their rows."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    width = 0.8 / len(kinds)
    found = [row for row in rows if row[key] == kind]
    offset = width * (kinds.index(kind) - (len(kinds) - 1) / 2)
    return [sizes.index(row["size"]) + offset for row in found], found


def _bars(axis: Axes, rows: list[dict[str, Any]], key: str, value: str, colours: dict[str, str]) -> None:
    kinds = [kind for kind in colours if any(row[key] == kind for row in rows)]
    for kind in kinds:
        places, found = _at(rows, kinds, key, kind)
        axis.bar(places, [row[value] for row in found], 0.8 / len(kinds), color=colours[kind], label=kind)
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    axis.set_xticks(np.arange(len(sizes)), sizes, fontsize=8)
    axis.grid(axis="y", alpha=0.25)


def _spread(axis: Axes, rows: list[dict[str, Any]]) -> None:
    kinds = [kind for kind in PLACES if any(row["place"] == kind for row in rows)]
    for kind in kinds:
        places, found = _at(rows, kinds, "place", kind)
        axis.vlines(places, [row["p50_ms"] for row in found], [row["p99_ms"] for row in found], color="#1f2933", lw=1)


if __name__ == "__main__":
    draw_saved("store", draw)
