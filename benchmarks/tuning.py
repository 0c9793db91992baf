"""What saved reports say to whoever turns a knob: the blocks of `docs/tuning.md`."""

from collections.abc import Callable
from typing import Any

from benchmarks.eviction_table import eviction_summary
from benchmarks.facts import interval
from benchmarks.features.tables import features_summary
from benchmarks.matching_table import matching_summary
from benchmarks.overload_table import overload_summary

Report = dict[str, Any]
SHOWN = ("lhd", "lru", "lcbfu", "oracle")
"""Eviction policies that the short table shows."""
PLAIN = "trajectory fp16"


def steps_lines(report: Report) -> list[str]:
    """N* of a model, beside 50 steps and one level below."""
    rows = [row for row in report["rows"] if row["solver"] == report["solver"]]
    found = {row["steps"]: f"{row['steps']} steps {interval(row['ratio_to_50'])}" for row in rows}
    told = ", ".join(text for steps, text in found.items() if steps <= 2 * report["n_star"])
    return [f"N\\* = **{report['n_star']}** with `{report['solver']}`. Score ÷ that of 50 steps: {told}."]


def resume_lines(report: Report) -> list[str]:
    """What a head start is worth beside running fewer steps."""
    return [
        f"At 30 % of N\\* skipped, on {report['headline_pairs']} pairs inside the table: score of head starts ÷ N\\* "
        f"steps **{interval(report['resume_30pct_over_full_nstar'])}**, ÷ fewer steps at equal compute "
        f"{interval(report['resume_30pct_over_scratch_70pct'])}."
    ]


def eviction_lines(report: Report) -> list[str]:
    """Steps saved by policy and size of the cache, means over the workloads."""
    cases = report["cases"]
    lines = [
        *eviction_summary(report),
        "",
        "| policy | " + " | ".join(f"{share:.0%}" for share in report["shares"]) + " |",
        "|---" * (len(report["shares"]) + 1) + "|",
    ]
    for name in SHOWN:
        means = [
            sum(case["policies"][name]["saved"][size]["value"] for case in cases) / len(cases)
            for size in range(len(report["shares"]))
        ]
        lines.append(f"| `{name}` | " + " | ".join(f"{mean:.1%}" for mean in means) + " |")
    return lines


def codec_lines(report: Report) -> list[str]:
    """Bytes of an entry for well-known models, and how many a GiB holds."""
    lines = [
        "| model, size | `fp16`: entry | entries in a GiB | `int8`: entry | entries in a GiB |",
        "|---|---|---|---|---|",
    ]
    for name, ways in report["sizes"].items():
        entries = [ways[way]["entry"] for way in (PLAIN, "trajectory int8")]
        cells = " | ".join(f"{size / 1024:,.0f} KiB | {2**30 // size:,}" for size in entries)
        lines.append(f"| {name} | {cells} |")
    return lines


def features_lines(report: Report) -> list[str]:
    """What feature caching is worth around N*; the table is in the README."""
    lines = features_summary(report)
    return lines[lines.index("") + 1 :]


def store_lines(report: Report) -> list[str]:
    """How long a state takes to come back, by where it lies."""
    sizes = list(dict.fromkeys(row["size"] for row in report["reads"]))
    places = list(dict.fromkeys(row["place"] for row in report["reads"]))
    lines = [
        "Loading one state, checksum verified, p50 and p99 in ms:",
        "",
        "| state of | " + " | ".join(places) + " |",
        "|---" * (len(places) + 1) + "|",
    ]
    for size in sizes:
        rows = {row["place"]: row for row in report["reads"] if row["size"] == size}
        cells = [f"{rows[place]['p50_ms']:.1f}, {rows[place]['p99_ms']:.1f}" for place in places]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return lines


def batching_lines(report: Report) -> list[str]:
    """What joint batches give over one request at a time and over none joined."""
    section = report["sections"][0]
    mix = section["mixes"]["75 %"]
    return [
        f"At most {section['max_batch']} in a batch, {section['steps']} steps: joint batches without hits draw "
        f"**{interval(section['uncached_over_one'])}** times as many pictures as diffusers' pipeline one at a time; "
        f"with 75 % hits {interval(mix['joined_over_uncached'])} times as many again."
    ]


TUNING: dict[str, Callable[[Report], list[str]]] = {
    "n_star": steps_lines,
    "n_star_dit": steps_lines,
    "resume": resume_lines,
    "matching": matching_summary,
    "eviction": eviction_lines,
    "codec": codec_lines,
    "store": store_lines,
    "features": features_lines,
    "batching": batching_lines,
    "overload": overload_summary,
}
"""A block by the report that it is made from."""
