"""The table of `benchmarks/tenancy.py`."""

from typing import Any


def tenancy_table(report: dict[str, Any]) -> list[str]:
    """Leaks among random operations, then what every attack achieves in every setting."""
    isolation = report["isolation"]
    lines = [
        f"{isolation['operations']} random operations of random tenants, users and scopes on one store: "
        f"**{isolation['leaks']} leaks**; {isolation['own_hits']} hits of one's own, "
        f"{isolation['hits_across_tenants_as_the_rules_allow']} across tenants, all as the rules of sharing allow.",
        "",
        "Attacks, the quarantine over. Covert channel: bits read right (chance 50 %); "
        "an attacker that holds two tenants is read to the bit until the bound on what one tenant may publish stops "
        "it, and a 1 beyond that is read as 0; where it was measured, in brackets how many ones came through, and "
        "the accuracy where others have published enough to widen the bound. Stealing: texts found to "
        "within a cosine of 0.75, in brackets the same guesses without being told anything. Poisoning: requests that "
        "would start from a planted entry. Pinning: planted entries that outlast the cache. Timing: how often the "
        "slower or faster of two lookups tells which text another holds (chance 50 %), and whether either test tells "
        f"the samples apart at {report['alpha']:.0%}.",
        "",
        "| setting | covert channel | stealing | poisoning | pinning | timing |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["attacks"]:
        stealing, timing = row["stealing"], row["timing"]
        apart = "told apart" if timing["told_apart"] else "not told apart"
        lines.append(
            f"| {row['setting']} | {_covert(row)} "
            f"| {stealing['success']:.0%} ({stealing['blind_success']:.0%}) | {row['poisoning']['success']:.0%} "
            f"| {row['pinning']['surviving']:.0%} | {timing['guessed_right']:.1%}, {apart} |"
        )
    return lines


def _covert(row: dict[str, Any]) -> str:
    alone, crowded = row["covert_channel"], row.get("covert_channel_in_a_crowd")
    if crowded is None:  # or a report of before it was measured
        return f"{alone['accuracy']:.0%}"
    through = f"{alone['ones_read']} of {alone['ones']} ones"
    return f"{alone['accuracy']:.0%} ({through}); among {crowded['crowd']} texts of others {crowded['accuracy']:.0%}"
