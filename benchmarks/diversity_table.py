"""The table of `benchmarks/diversity.py`."""

from typing import Any

from benchmarks.facts import interval


def diversity_table(report: dict[str, Any]) -> list[str]:
    """Full runs first, then every level with its shares and what equal compute gives from scratch."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report["kinds"].items(), key=lambda one: -one[1]))
    lines = [
        f"scenes-unet, {report['steps']} steps: {report['pairs']} pairs of prompts that the shipped table accepts, "
        f"of {report['looked_at']} looked at ({kinds}), each target with {report['seeds']} seeds. Distance: RMS of "
        "the pixels' differences between seeds, as a share of their range. Open attributes: share of those the "
        "prompt does not mention that the judge sees otherwise. Evaluations: of the network, judging and exchanging "
        "included, as a share of a full run's. Exchanged 0 is the floor, full runs are the ceiling; from scratch is "
        "what the compute of the exchanged ones, in whole steps, buys without a cache.",
        "",
        "| skipped | exchanged | distance | distance ÷ full runs | open attributes | judge score | score ÷ full runs "
        "| evaluations |",
        "|---|---|---|---|---|---|---|---|",
        _row("–", "full runs", report["full"]),
    ]
    for level in report["levels"]:
        for name, arm in level["arms"].items():
            shown = "from scratch" if name == "scratch" else name
            lines.append(_row(f"{level['skip']:.1%}", shown, arm))
    return lines


def _row(skip: str, name: str, arm: dict[str, Any]) -> str:
    cells = (
        skip,
        name,
        interval(arm["pixels"]),
        f"**{interval(arm['pixels_over_full'])}**",
        interval(arm["unasked"]),
        interval(arm["score"]),
        f"**{interval(arm['score_over_full'])}**",
        f"{arm['evaluations']:.0%}",
    )
    return "| " + " | ".join(cells) + " |"
