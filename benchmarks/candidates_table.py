"""The tables of `benchmarks/candidates.py`."""

from typing import Any

from benchmarks.facts import interval

REFERENCE, ALONE = "3 in turn", "1 in turn"
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
        f"full run. 95 % intervals. Of {report['long']}: the same acceptances, "
        "if a run had so many steps.",
    ]
    for kept, cache in report["caches"].items():
        lines += ["", f"**{_runs(int(kept))}**: {_ranks(cache['ranks'])}", "", *_ways(cache, report["long"])]
    return lines


def candidates_summary(report: dict[str, Any]) -> list[str]:
    """The ways that matter, for the documentation."""
    kept, cache = max(report["caches"].items(), key=lambda item: int(item[0]))
    best = report["headline"]["best_at_once"]
    lines = [
        f"{_runs(int(kept))}, {report['sessions']} requests that differ from all of them. "
        f"{_ranks(cache['ranks']).capitalize()}",
        "",
        f"| | steps saved, of {report['steps']} | of {report['long']} | latency, steps | bad-hit rate |",
        "|---|---|---|---|---|",
    ]
    for name in (ALONE, REFERENCE, best, "3 in turn, only pictures that suit", ORACLE):
        arm = cache["arms"][name]
        cells = [interval(arm[kind]) for kind in ("saved", "saved_of_long", "latency_steps", "bad_hit_rate")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


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


def _ways(cache: dict[str, Any], long: int) -> list[str]:
    lines = [
        f"| | hits | saved, share of N | more than {REFERENCE} | latency, steps | bad-hit rate | saved, of {long} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in cache["arms"].items():
        more = "–" if name == REFERENCE else interval(arm["saved_more"])
        latency = interval(arm["latency_steps"], digits=2)
        lines.append(
            f"| {name} | {arm['hits']} of {arm['requests']} | {interval(arm['saved'])} | {more} | {latency} "
            f"| {interval(arm['bad_hit_rate'])} | {interval(arm['saved_of_long'])} |"
        )
    return lines
