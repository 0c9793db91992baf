"""The table of `benchmarks/gate.py`."""

from typing import Any

SHIPPED = "mean / influence, 8x8"


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
    return lines
