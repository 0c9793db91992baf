"""The tables of `benchmarks/pareto.py`."""

from collections.abc import Sequence
from typing import Any

from benchmarks.facts import interval

KINDS = {
    "scratch": "fewer steps",
    "head_start": "head start",
    "features": "feature caching",
    "joint": "head start and feature caching",
}


def pareto_table(report: dict[str, Any]) -> list[str]:
    """Per model every arm, and the fastest of each kind that keeps 99 % of the score."""
    lines = [
        f"{report['sessions']} held-out sessions per model, served by every arm; all answers counted, misses and "
        f"repeats included. Speed-up: device time of 50 steps ÷ device time; quality: judge score ÷ that of 50 steps "
        "(95 % bootstrap intervals).",
        "",
        "![Quality against device time](../docs/images/pareto.png)",
    ]
    for model, found in report["models"].items():
        lines += [
            "",
            f"**{model}**; one request of 50 steps takes {1000 * found['reference_seconds']:.0f} ms of device time.",
            "",
            "| arm | speed-up | score | quality | steps saved |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['arm']} | {interval(row['speedup'], digits=2)} | {interval(row['score'])} "
            f"| {interval(row['quality'])} | {row['saved']['value']:.1%} |"
            for row in found["arms"]
        ]
        best = {KINDS[kind]: row for kind, row in report["best"][model].items()}
        shown = [
            f"{kind} {row['speedup']['value']:.2f} ({row['arm']})" if row else f"{kind}: none"
            for kind, row in best.items()
        ]
        lines += ["", f"Fastest with 99 % of the score: {'; '.join(shown)}."]
        if late := disturbed(found["arms"]):
            lines += [
                "",
                f"Slower than its like with more steps, so other work was in the way: {'; '.join(late)}.",
            ]
    return [*lines, "", f"On the joint front of both models: {'; '.join(report['headline']['front'])}."]


def disturbed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the arms without feature caching that took longer than one of their kind with more steps."""
    plain = [row for row in rows if not row["features"]]
    return [
        row["arm"]
        for row in plain
        if any(
            more["cached"] == row["cached"]
            and more["steps"] > row["steps"]
            and more["seconds"]["value"] < row["seconds"]["value"]
            for more in plain
        )
    ]
