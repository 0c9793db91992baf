"""The table of `benchmarks/gate.py`."""

from typing import Any

from benchmarks.facts import interval

SHIPPED = "mean / influence, 8x8"
TOGETHER = "shipped, picture and cosine together"


def gate_table(report: dict[str, Any]) -> list[str]:
    """One row per measure."""
    levels = list(report["rows"][0]["auc"])
    heads = " | ".join(f"AUC, {float(level):.0%}" for level in levels)
    shares = " | ".join(f"served, {float(level):.0%}" for level in levels)
    lines = [
        f"{report['pairs']} held-out pairs of differing prompts, {report['kept']} of them alike enough to be run at "
        f"all levels; judged at {report['level']:.1%} of the steps. AUC: how well the measure tells hits that lie "
        "visibly below a full run at that level. Served: share of hits, most alike first, whose bad-hit rate is "
        "at most "
        f"{' / '.join(f'{rate:.0%}' for rate in report['rates'])}. Influence: what guidance by the new prompt "
        f"changes. Shipped: {SHIPPED}.",
        "",
        f"| measure | {heads} | {shares} |",
        "|---|" + "---|" * (2 * len(levels)),
    ]
    best = sorted(report["rows"], key=lambda row: -sum(sum(pair) for pair in row["served"].values()))
    for row in best:
        aucs = " | ".join(f"{row['auc'][level]:.2f}" for level in levels)
        served = " | ".join(" / ".join(f"{share:.2f}" for share in row["served"][level]) for level in levels)
        lines.append(f"| {row['measure']} | {aucs} | {served} |")
    return [*lines, "", *_picture(report["picture"])]


def picture_summary(report: dict[str, Any]) -> list[str]:
    """What the picture adds to the gate, for the documentation."""
    levels = report["picture"]["levels"]
    gains = "; ".join(f"{float(level):.0%} {interval(row['together_over_gate'])}" for level, row in levels.items())
    return [f"AUC with the picture's score less AUC of the gate alone, by share of steps skipped: {gains}."]


def _picture(found: dict[str, Any]) -> list[str]:
    """What the source's picture tells beside the gate, and what looking at it costs."""
    spent = found["milliseconds"]
    lines = [
        "The source's picture, scored by the judge under the new prompt (it also tells bad hits, so no "
        "other score can be expected to do as much). Together: a logistic regression with the cosine, on pairs "
        f"it was not fitted on. Looking at one stored picture took {spent['one picture']:.0f} ms, at eight "
        f"{spent['all candidates']:.0f} ms, a guided evaluation of one row {spent['evaluation']:.0f} ms.",
        "",
        "| steps skipped | bad hits | AUC, gate | AUC, picture | AUC, together | together less gate |",
        "|---|---|---|---|---|---|",
    ]
    for level, row in found["levels"].items():
        cells = [interval(row[name]) for name in ("gate", "picture", "together", "together_over_gate")]
        lines.append(f"| {float(level):.0%} | {row['bad']} | " + " | ".join(cells) + " |")
    return lines
