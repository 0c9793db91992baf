"""The tables of `benchmarks/matching.py`."""

from typing import Any

from benchmarks.facts import interval

SHIPPED = "headstart"
"""The arm that is as shipped."""
SUITE = ("fixed threshold", "no veto", SHIPPED, "no gate")
"""The arms that the adversarial suite is served by."""


def matching_table(report: dict[str, Any]) -> list[str]:
    """Per model: the ablation, then the adversarial suite."""
    lines = [
        f"{report['sessions']} held-out sessions on a cache of {report['sessions']} runs, per model. A hit is bad "
        f"when it lies more than {report['loss']:.0%} of the attributes asked for below a full run; the bad-hit rate "
        "is how much more often that happens to a hit on another text than to a second full run (95 % bootstrap "
        "interval, and the one-sided upper limit at 95 %). Saved: steps not run, less steps spent on judging, as a "
        "share of N\\*, repeats of the same text included (without them in brackets). Quality: judge score of all "
        "answers ÷ full runs.",
    ]
    for model, found in report["models"].items():
        wide = found["wide"]
        lines += ["", f"**{model}**, {found['steps']} steps, table: {_rows(found['table'])}.", "", *_ablation(found)]
        lines += [
            "",
            f"As shipped, {wide['requests']} more sessions: {wide['hits']} hits on other texts, {wide['worse']:g} of "
            f"them worse and {wide['better']:g} better than full runs; bad-hit rate "
            f"**{interval(wide['bad_hit_interval'])}**, at most {wide['bad_hit_upper95']:.3f}; saved "
            f"{interval(wide['saved'])} ({wide['saved_without_repeats']['value']:.3f}); quality "
            f"{interval(wide['quality'])}.",
        ]
        if found["adversarial"]:
            lines += ["", *_suite(found)]
    return lines


def matching_summary(report: dict[str, Any]) -> list[str]:
    """The README's sentence."""
    head = report["headline"]
    return [
        "Served by the shipped table, hits on other texts lack something a full run shows "
        f"**{head['bad_hit_rate']:.1%}** more often than a second full run does (at most "
        f"{head['bad_hit_upper95']:.1%} with 95 % confidence), while {head['saved_compute']:.1%} of N\\*'s steps "
        f"are saved. On prompts made to fool a similarity threshold, {head['adversarial_bad_before']:.0%} go wrong "
        f"behind a threshold of 0.75, **{head['adversarial_bad_after']:.1%}** here."
    ]


def _rows(table: dict[str, Any]) -> str:
    shown = [f"{row['skip']:.1%} skipped up to a divergence of {row['max_divergence']:.3f}" for row in table["rows"]]
    return "; ".join(shown) or "empty (repeats only)"


def _ablation(found: dict[str, Any]) -> list[str]:
    lines = [
        "| | hits (repeats) | bad-hit rate | upper limit | saved, share of N\\* | quality |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        saved, other = interval(arm["saved"]), arm["saved_without_repeats"]["value"]
        lines.append(
            f"| {name} | {arm['hits']} ({arm['repeats']}) | {interval(arm['bad_hit_interval'])} "
            f"| {arm['bad_hit_upper95']:.3f} | {saved} ({other:.3f}) | {interval(arm['quality'])} |"
        )
    return lines


def _suite(found: dict[str, Any]) -> list[str]:
    suite = found["adversarial"]
    kinds = list(next(iter(suite.values()))["by_kind"])
    lines = [
        f"{found['adversarial_pairs']} adversarial pairs (one thing changed, in the most similar wordings): share "
        "that gets a bad hit, and bad hits by kind.",
        "",
        f"| | hits | bad hits ÷ pairs | {' | '.join(kinds)} |",
        "|---|---|---|" + "---|" * len(kinds),
    ]
    for name in SUITE:
        arm = suite[name]
        by_kind = " | ".join(f"{arm['by_kind'][kind]['bad']:g} of {arm['by_kind'][kind]['hits']}" for kind in kinds)
        lines.append(f"| {name} | {arm['hits']} | {interval(arm['bad_of_pairs'])} | {by_kind} |")
    return lines
