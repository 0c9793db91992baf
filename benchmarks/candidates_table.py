"""The tables of `benchmarks/candidates.py`."""

from typing import Any

from benchmarks.facts import interval

SHIPPED = "3 in turn"
ORACLE = "oracle"


def candidates_table(report: dict[str, Any]) -> list[str]:
    """Per cache: how often the gate accepts at which place, and what every way of trying comes to."""
    lines = [
        f"{report['sessions']} held-out requests, no repeats, N = {report['steps']}, of {report['neighbours']} "
        "neighbours those the shipped table would try. In turn: a refused one costs a step, then the next is tried. "
        "At once: all are probed as rows of one batch, which costs an evaluation each and one step of time; the "
        "deepest accepted is entered. Oracle: knows which that is. Saved: evaluations not made, less those thrown "
        "away, as a share of N. Latency: steps until the last one is done, where a batch's rows cost no time. "
        "Pictures: the judge scores the stored picture of each candidate under the new prompt first; it is the judge "
        "that tells bad hits as well, so no other score can be expected to do as much. Bad-hit rate: over a second "
        f"full run. 95 % intervals. Shipped: {SHIPPED}.",
    ]
    for kept, cache in report["caches"].items():
        lines += ["", f"**{_runs(int(kept))}**: {_ranks(cache['ranks'])}", "", *_ways(cache)]
    return lines


def candidates_summary(report: dict[str, Any]) -> list[str]:
    """What it says about probing at once, for the documentation."""
    kept, cache = max(report["caches"].items(), key=lambda item: int(item[0]))
    usual, best = cache["arms"][SHIPPED], report["headline"]["best_at_once"]
    other = cache["arms"][best]
    return [
        f"With {_runs(int(kept)).lower()}, trying up to three in turn saves {interval(usual['saved'])} of the steps "
        f"and takes {usual['latency_steps']['value']:.2f} of {report['steps']}; of the ways at once, {best} saves "
        f"most: {interval(other['saved'])}, {interval(other['saved_more'])} more, in "
        f"{other['latency_steps']['value']:.2f} steps; an oracle would save "
        f"{interval(cache['arms'][ORACLE]['saved'])}. {_ranks(cache['ranks'])}",
    ]


def _runs(kept: int) -> str:
    return "One run left by each session" if kept == 1 else f"{kept} runs left by each session"


def _ranks(ranks: list[dict[str, Any]]) -> str:
    places = ("first", "second", "third", "fourth")
    shown = [
        f"{place} {interval(row['accepted'], digits=2)} of {row['reached']}"
        for place, row in zip(places, ranks, strict=True)
        if row["reached"]
    ]
    return f"accepted by the gate, where all before were refused: {'; '.join(shown)}."


def _ways(cache: dict[str, Any]) -> list[str]:
    lines = [
        "| | hits | saved, share of N | more than shipped | latency, steps | bad-hit rate |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in cache["arms"].items():
        more = "–" if name == SHIPPED else interval(arm["saved_more"])
        latency = interval(arm["latency_steps"], digits=2)
        lines.append(
            f"| {name} | {arm['hits']} of {arm['requests']} | {interval(arm['saved'])} | {more} | {latency} "
            f"| {interval(arm['bad_hit_rate'])} |"
        )
    return lines
