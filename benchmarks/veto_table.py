"""The tables of `benchmarks/adversarial.py` and `benchmarks/veto.py` for RESULTS.md."""

from typing import Any

from benchmarks.facts import interval
from policies.matching.veto import KINDS

Report = dict[str, Any]


def adversarial_table(report: Report) -> list[str]:
    """Cosine, what a threshold lets through and what the veto catches, by kind of pair."""
    head, floors = report["headline"], report["floors"]
    lines = [
        f"{head['pairs']} pairs of scene prompts that differ in one thing a right picture must show, in the most "
        f"similar wordings, and {head['rewordings']} rewordings. Vetoed: share in which any kind of words "
        "contradicts; beside it the kinds that do, each alone.",
        "",
        "| pair differs in | cosine | " + " | ".join(f"≥ {floor}" for floor in floors) + " | vetoed | by |",
        "|---" * (len(floors) + 4) + "|",
    ]
    for row in report["rows"]:
        above = " | ".join(f"{row['above'][str(floor)]:.0%}" for floor in floors)
        lines.append(
            f"| {row['kind']} | {interval(row['cosine'], digits=2)} | {above} | **{row['vetoed']:.0%}** "
            f"| {_kinds(row['reasons'])} |"
        )
    return lines


def veto_table(report: Report) -> list[str]:
    """Reach, false alarms and the share of a log's proposals refused; one line where nothing could be measured."""
    if "skipped" in report:
        return [f"Not measured: {report['skipped']}."]
    took = report["microseconds"]
    return [
        f"{report['prompts']['parti']} prompts of PartiPrompts, edited by rule; {report['prompts']['diffusiondb']} "
        f"different prompts of DiffusionDB in order. Vetoed: by any kind of words. "
        f"A pair takes {took['mean']:.0f} µs on average, {took['p99']:.0f} at the 99th percentile, both texts read.",
        "",
        "Edits that change the picture (wanted: vetoed):",
        "",
        *_rows("edit", report["edits"]),
        "",
        "Edits of the wording alone (wanted: not vetoed):",
        "",
        *_rows("edit", report["rewordings"]),
        "",
        f"DiffusionDB: pairs of a prompt and the nearest earlier one, other text, cosine at least {report['floor']}:",
        "",
        *_rows("cosine", report["diffusiondb"]),
        "",
        "The same for PartiPrompts, by challenge and by category:",
        "",
        *_rows("", report["parti"]),
    ]


def _rows(title: str, rows: list[Report]) -> list[str]:
    floors = list(rows[0]["above"]) if rows else []
    lines = [
        f"| {title} | pairs | cosine | " + " | ".join(f"≥ {floor}" for floor in floors) + " | vetoed | by |",
        "|---" * (len(floors) + 5) + "|",
    ]
    for row in rows:
        above = " | ".join(f"{row['above'][floor]:.0%}" for floor in floors)
        lines.append(
            f"| {row['name']} | {row['pairs']} | {row['cosine']['value']:.2f} | {above} "
            f"| **{interval(row['vetoed'], 100, 0)}** % | {_kinds(row['kinds'])} |"
        )
    return lines


def _kinds(shares: dict[str, float]) -> str:
    """The kinds that catch anything, most first."""
    ranked = sorted((kind for kind in KINDS if shares[kind] > 0), key=lambda kind: (-shares[kind], kind))
    return ", ".join(f"{kind} {shares[kind]:.0%}" for kind in ranked) or "–"
