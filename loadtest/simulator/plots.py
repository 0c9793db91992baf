"""Pictures of a comparison: saved share over cache size, and where each policy's requests end."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from loadtest.simulator.study import Row

BEST_KNOWN = {"oracle": ("#1f2933", "--")}


def draw_saved(rows: Sequence[Row], path: Path, *, limit: float | None = None) -> None:
    """Write a PNG: share of the steps saved over cache size, one line per set-up and policy."""
    figure, axis = plt.subplots(figsize=(7.5, 4.5), dpi=110)
    for setup, policy in dict.fromkeys((row.setup, row.policy) for row in rows):
        own = sorted((r for r in rows if (r.setup, r.policy) == (setup, policy)), key=lambda row: row.budget)
        colour, style = BEST_KNOWN.get(policy, (None, "-" if setup == "headstart" else ":"))
        axis.plot(
            [row.budget for row in own], [100 * row.saved for row in own], style, color=colour, marker=".",
            label=policy if setup == "headstart" else f"{setup}: {policy}",
        )  # fmt: skip
    if limit is not None:
        axis.axhline(100 * limit, color="#9aa5b1", linewidth=0.8, label="no cache can save more")
    axis.set_xscale("log")
    axis.set_xlabel("cache size, bytes")
    axis.set_ylabel("steps saved, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw_mix(rows: Sequence[Row], skips: Sequence[float], path: Path) -> None:
    """Write a PNG: exact hits, approximate hits by level and misses of each policy, at one size."""
    figure, axis = plt.subplots(figsize=(7.5, 0.6 + 0.38 * len(rows)), dpi=110)
    labels = [f"{row.setup}: {row.policy}" for row in rows]
    lefts = _stacked(axis, labels, [0.0] * len(rows), [row.exact for row in rows], "exact", "#14919b")
    for level, skip in reversed(list(enumerate(skips))):
        shade = plt.get_cmap("Blues")(0.3 + 0.6 * skip)
        lefts = _stacked(axis, labels, lefts, [row.levels[level] for row in rows], f"K = {skip:.0%}", shade)
    _stacked(axis, labels, lefts, [row.misses for row in rows], "miss", "#e4e7eb")
    axis.set_xlim(0, 100)
    axis.set_xlabel("requests, %")
    axis.invert_yaxis()
    axis.legend(fontsize=7, ncol=len(skips) + 2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _stacked(
    axis: Axes, labels: list[str], lefts: list[float], shares: list[float], label: str, colour: object
) -> list[float]:
    widths = [100 * share for share in shares]
    axis.barh(labels, widths, left=lefts, label=label, color=colour)
    return [left + width for left, width in zip(lefts, widths, strict=True)]
