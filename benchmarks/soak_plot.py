"""The picture of `benchmarks/soak.py`: memory of every process over the requests that had ended."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plotting import draw_saved

PARTS = (("api", "API", "#2680c2"), ("engine", "engine", "#d64545"), ("redis", "Redis", "#cb6e17"))
MARKS = {"engine-kill": ("engine killed", "#d64545", ":"), "redis-kill": ("Redis killed", "#1f2933", "-."),
         "redis-stall": ("Redis stopped for a while", "#cb6e17", "--")}  # fmt: skip


def draw(report: dict[str, Any], path: Path) -> None:
    """Write a PNG: memory of the processes, and what the cache holds, against requests ended."""
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.9), dpi=110)
    for axis, (part, title, colour) in zip(axes, PARTS, strict=False):
        _memory(axis, report, part, colour)
        axis.set_title(f"{title}: {_slope(report['growth'][part]['rss_kb'])}", fontsize=9)
    rows = [row for row in report["series"] if row["entries"] >= 0]
    axes[3].plot([row["finished"] for row in rows], [row["entries"] for row in rows], color="#3e4c59")
    axes[3].set_title("generations remembered", fontsize=9)
    for axis in axes:
        _mark_faults(axis, report)
    axes[0].set_ylabel("resident memory, MB")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.suptitle(f"{report['requests']} requests from {report['clients']} clients")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _memory(axis: Axes, report: dict[str, Any], part: str, colour: str) -> None:
    """One line per process: a new process starts a new line."""
    rows = [row for row in report["series"] if part in row]
    for pid in dict.fromkeys(row[part]["pid"] for row in rows):
        own = [row for row in rows if row[part]["pid"] == pid]
        memory = [row[part]["rss_kb"] / 1024 for row in own]
        axis.plot([row["finished"] for row in own], memory, color=colour, linewidth=1.5)
    axis.axvspan(report["requests"] / 2, report["requests"], color=colour, alpha=0.06)
    most = max(row[part]["rss_kb"] / 1024 for row in rows)
    # Not from 0, for growth to show; far enough down for noise not to fill the picture; loading falls out below.
    axis.set_ylim(0.75 * most, 1.05 * most)


def _mark_faults(axis: Axes, report: dict[str, Any]) -> None:
    named = set()
    for fault in report["faults"]:
        label, colour, style = MARKS[fault["kind"]]
        axis.axvline(
            fault["at"], color=colour, linestyle=style, linewidth=0.8, alpha=0.6,
            label=None if label in named else label,
        )  # fmt: skip
        named.add(label)
    axis.set_xlabel("requests ended")
    axis.grid(alpha=0.25)


def _slope(fit: dict[str, float]) -> str:
    value, low, high = (fit[name] / 1024 for name in ("value", "low", "high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}] MB / 1000"


if __name__ == "__main__":
    draw_saved("soak", draw)
