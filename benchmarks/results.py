"""Write the figures of saved reports into RESULTS.md and the README: `python -m benchmarks.results`.

Reports are the indented JSON files that `python -m benchmarks NAME --out benchmarks/reports/NAME.json` leaves;
no figure in the documents is typed in by hand.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.settings import settings_table

REPORTS = Path("benchmarks/reports")
Report = dict[str, Any]


def interval(figure: dict[str, float], scale: float = 1.0, digits: int = 3) -> str:
    """A value with its 95 % interval."""
    value, low, high = (figure[name] * scale for name in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def n_star_table(report: Report) -> list[str]:
    """Score by solver and number of steps."""
    lines = [
        f"N\\* = **{report['n_star']}** ({report['solver']}): the fewest steps within 1 % of 50, which score "
        f"{interval(report['full_50'])} over {report['full_50']['n']} held-out prompts.",
        "",
        "| solver | steps | judge score | ratio to 50 steps |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        score, ratio = interval(row["score"]), interval(row["ratio_to_50"])
        lines.append(f"| {row['solver']} | {row['steps']} | {score} | {ratio} |")
    return lines


def resume_table(report: Report) -> list[str]:
    """Score by skipped share inside the shipped table, and how much of the traffic that is."""
    star = report["n_star"]
    lines = [
        f"N\\* = **{star['n_star']}** steps ({star['solver']}); 50 steps score {interval(star['full_50'])}; "
        f"{report['pairs']} held-out pairs of prompts, judge score = share of attributes right, 95 % intervals.",
        "",
        "| steps skipped (of N\\*) | pairs accepted | resumed | N\\* steps | 50 steps | scratch, equal compute "
        "| neighbour's picture |",
        "|---|---|---|---|---|---|---|",
    ]
    for level in report["curve"]:
        lines.append(_resume_row(level, report["table"]))
    inside, kinds = report["inside"], report["headline_kinds"]
    mix = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
    lines += [
        "",
        f"More pairs for the question that matters: {report['headline_pairs']} inside the table at 30 %, out of "
        f"{report['headline_sessions']} sessions' pairs (kinds of edit: {mix}); the resumed runs took "
        f"{report['headline_evaluations']:.0%} of N\\*'s network evaluations, the judging one included, and so did "
        "those from scratch.",
        "",
        "| resumed at 30 % | N\\* steps | from scratch, equal compute | 50 steps | neighbour's picture |",
        "|---|---|---|---|---|",
        "| " + " | ".join(interval(inside[name]) for name in INSIDE) + " |",
        "",
        f"Resumed ÷ full N\\*: **{interval(report['resume_30pct_over_full_nstar'])}**; "
        f"÷ from scratch at equal compute: **{interval(report['resume_30pct_over_scratch_70pct'])}**; "
        f"÷ the neighbour's picture unchanged: {interval(report['resume_30pct_over_neighbour'])}.",
    ]
    return lines


def _resume_row(level: Report, table: list[dict[str, float]]) -> str:
    shipped = any(abs(row["skip"] - level["skip"]) <= 0.05 for row in table)
    if not shipped or level["accepted_share"] == 0:
        return f"| {level['skip']:.0%} | not in the shipped table | – | – | – | – | – |"
    inside = level["inside_table"]
    cells = [interval(inside[name]) for name in ("resumed", "full_nstar", "full_50", "scratch", "neighbour")]
    return f"| {level['skip']:.0%} | {level['accepted_share']:.0%} | " + " | ".join(cells) + " |"


def overhead_table(report: Report) -> list[str]:
    """Realised saving and where the rest of the time goes."""
    stages = ", ".join(f"{name} {value:.1f}" for name, value in report["stage_ms"].items())
    return [
        f"Full run of {report['steps']} steps: {interval(report['full_ms'], digits=0)} ms; hit at K = {report['k']}: "
        f"{interval(report['hit_ms'], digits=0)} ms ({report['pairs_at_k25']} pairs, wall clock at the client).",
        "",
        f"Realised saving ÷ saving by step count: **{interval(report['realised_over_ideal'])}**. "
        f"Everything that is not denoising: {interval(report['overhead_ms'], digits=1)} ms a request.",
        "",
        f"Stage means in ms: {stages}.",
    ]


def replay_table(report: Report) -> list[str]:
    """The sample log with and without the cache."""
    cached, uncached = report["cached"], report["uncached"]
    headline = report["headline"]
    return [
        f"{cached['requests']} requests of the sample log (synthetic sessions) through Locust, default settings: "
        f"{headline['failures']} failed, verdicts {cached['verdicts']}.",
        "",
        "| | cached | uncached |",
        "|---|---|---|",
        f"| judge score | {interval(report['judge_cached'])} | {interval(report['judge_uncached'])} |",
        f"| GPU seconds spent | {cached['spent_gpu_seconds']:.1f} | {uncached['spent_gpu_seconds']:.1f} |",
        f"| the same per step run, ms | {report['step_ms']['cached']:.1f} | {report['step_ms']['uncached']:.1f} |",
        f"| latency p50 / p95, s | {cached['latency_p50']:.2f} / {cached['latency_p95']:.2f} "
        f"| {uncached['latency_p50']:.2f} / {uncached['latency_p95']:.2f} |",
        "",
        f"Hits: {headline['hit_share']:.0%} of requests; approximate hits skip "
        f"{headline['mean_skip_share_of_hits']:.0%} of their steps on average; "
        f"{headline['steps_saved_share']:.0%} of all steps saved. "
        f"Judge score, cached ÷ uncached: {interval(report['judge_ratio'])}.",
    ]


def solver_resume_table(report: Report) -> list[str]:
    """First-order restart beside stored history, pooled over the entry points of each solver and N."""
    lines = [
        "A multistep solver that enters at a stored state, started again at first order or with the source's history",
        "(kept in half precision). PSNR: of resumes from a run's own state against the uninterrupted run, at each K.",
        "",
        "| solver | N | PSNR at K: restart → history | judge, own state | judge, neighbour's state |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        decibels = ", ".join(
            f"{level['skipped']}: {level['restart_psnr']['value']:.1f} → {level['history_psnr']['value']:.1f}"
            for level in row["levels"]
        )
        own, near = (row[f"history_over_restart{where}"] for where in ("", "_neighbour"))
        lines.append(f"| {row['solver']} | {row['steps']} | {decibels} | {interval(own)} | {interval(near)} |")
    whole = interval(report["history_over_restart_neighbour"])
    return [
        *lines,
        "",
        f"The judge's columns are history ÷ restart. Neighbours' states, everything together: {whole}.",
    ]


# The README has room for answers, not for sweeps.
IN_DETAIL = ("n_star", "solver_resume")
INSIDE = ("resume_30pct", "full_nstar", "scratch_70pct", "full_50", "neighbour")
SECTIONS: dict[str, tuple[str, Callable[[Report], list[str]]]] = {
    "n_star": ("How few steps are enough?", n_star_table),
    "resume": ("Does resuming beat fewer steps?", resume_table),
    "replay": ("Is a log of sessions served cheaper?", replay_table),
    "overhead": ("What does the cache cost?", overhead_table),
    "solver_resume": ("How should a multistep solver resume?", solver_resume_table),
}


def main() -> None:
    """Rewrite RESULTS.md and the marked blocks of README.md."""
    readme = replace_block(Path("README.md").read_text(), "settings", settings_table().splitlines())
    document = [
        "# Results",
        "",
        "The last runs (`--quick` where it says so). Compare ratios, never absolute times.",
        "",
    ]
    for name, (title, table) in SECTIONS.items():
        path = REPORTS / f"{name}.json"
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        lines = table(report)
        if name not in IN_DETAIL:
            readme = replace_block(readme, name, lines)
        machine = report["machine"]
        command = f"python -m benchmarks {name}{' --quick' * report['quick']} --out {path}"
        where = f"{machine['cores']} cores ({machine['processor']}, {machine['device']}, torch {machine['torch']})"
        document += [f"## {title}", "", f"`{command}`: {report['seconds']:.0f} s on {where}."]
        document += ["", *lines, "", "```json", json.dumps({"headline": report["headline"]}, indent=1), "```", ""]
    Path("README.md").write_text(readme)
    Path("benchmarks/RESULTS.md").write_text("\n".join(document))


def replace_block(text: str, name: str, lines: list[str]) -> str:
    """Put `lines` between `<!-- figures:NAME -->` and `<!-- /figures:NAME -->`.

    Raises:
        ValueError: the markers are not in the text.
    """
    start, end = f"<!-- figures:{name} -->", f"<!-- /figures:{name} -->"
    head, rest = text.split(start)
    _, tail = rest.split(end)
    return head + start + "\n" + "\n".join(lines) + "\n" + end + tail


if __name__ == "__main__":
    main()
