"""Write the figures of saved reports into RESULTS.md and the README: `python -m benchmarks.results`.

Reports are the indented JSON files that `python -m benchmarks NAME --out benchmarks/reports/NAME.json` leaves;
no figure in the documents is typed in by hand.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.candidates_table import candidates_summary, candidates_table
from benchmarks.chaos_table import chaos_summary, chaos_table
from benchmarks.code_blocks import FROM_CODE
from benchmarks.codec_table import codec_table
from benchmarks.crash_table import crash_summary, crash_table
from benchmarks.diversity_table import diversity_table
from benchmarks.eviction_table import eviction_summary, eviction_table
from benchmarks.facts import interval
from benchmarks.features.tables import features_batching_table, features_summary, features_table
from benchmarks.gate_table import gate_table, picture_summary
from benchmarks.heatmaps_table import heatmaps_table
from benchmarks.lookup_table import lookup_summary, lookup_table
from benchmarks.matching_table import matching_summary, matching_table
from benchmarks.overload_table import overload_summary, overload_table
from benchmarks.pareto_table import pareto_table
from benchmarks.soak_table import soak_table
from benchmarks.store_table import store_table
from benchmarks.tenancy_table import tenancy_table
from benchmarks.trust_tables import api_table, audit_table, replay_exact_table
from benchmarks.tuning import TUNING
from benchmarks.veto_table import adversarial_table, veto_table

REPORTS = Path("benchmarks/reports")
TUNING_DOCUMENT = Path("docs/tuning.md")
Report = dict[str, Any]


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
        *_outdated(report["table"]),
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


def _outdated(rows: list[dict[str, float]]) -> list[str]:
    """Say so where a report was made with another threshold table than the one that ships."""
    shipped = json.loads(Path("models/scenes-unet/matching.json").read_text())["rows"]
    bounds = [
        [(row["skip"], row["max_divergence"], row["min_similarity"]) for row in table] for table in (rows, shipped)
    ]
    same = bounds[0] == bounds[1]
    return [] if same else ["*Made with an earlier threshold table, by an earlier measure of divergence.*", ""]


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


def batching_table(report: Report) -> list[str]:
    """Throughput and latency by system and mix, ratios, and what the loop itself costs."""
    lines: list[str] = []
    for section in report["sections"]:
        lines += [*_batching_section(section), ""]
    wanted, loop = report["acceptance"], report["loop"]
    lines += [
        f"At 75 % hits and these K, joined ÷ uncached cannot exceed the step-count ratio, "
        f"{wanted['step_count_ratio_75']:.2f} (asked for: {wanted['joined_over_uncached_75_at_least']}); the least "
        f"share of a step-count ratio that was realised is **{wanted['least_realised_over_ideal']:.3f}** "
        f"(asked for: {wanted['realised_over_ideal_at_least']}).",
        "",
        f"Where the wall time of a saturated engine goes ({loop['dtype']}, {loop['steps']} steps); outside = in "
        "neither network:",
        "",
        "| model | batch | denoiser | VAE decoder | outside | outside, decoder included | outside, ms a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, figures in loop["models"].items():
        lines += [_loop_row(model, row) for row in figures["batches"]]
    lines += ["", loop["note"]] if "note" in loop else []
    for model, figures in loop["models"].items():
        dearest = ", ".join(f"`{one['function']}` {one['share_of_outside']:.0%}" for one in figures["dearest"])
        lines += ["", f"Dearest functions outside the networks, {model}: {dearest} of that time (by profile)."]
    return lines


def batching_summary(report: Report) -> list[str]:
    """The answers of `batching_table`, for the README."""
    section = report["sections"][0]
    mix = section["mixes"]["75 %"]
    return [
        f"With 75 % approximate hits entering at steps 5 to 25 of {section['steps']}, joint batches draw "
        f"**{interval(mix['joined_over_uncached'])}** times as many pictures as the same engine without hits "
        f"(step counts allow {mix['step_count_ratio']:.2f}), {interval(mix['joined_over_apart'])} times as many as "
        f"batches that hold one entry step each, and {interval(mix['joined_over_static'])} times as many as static "
        f"batches of diffusers' pipeline. Outside the networks the loop spends "
        f"{report['headline']['loop_overhead_share']:.1%}.",
    ]


def _batching_section(section: Report) -> list[str]:
    lines = [
        f"{section['dtype']}, N = {section['steps']}, {section['solver']}, max_batch {section['max_batch']}, "
        f"{section['clients']} clients in a closed loop, {section['rounds']} round(s).",
        "",
        "| system | hits | K | pictures/s | latency p50 / p95, s |",
        "|---|---|---|---|---|",
    ]
    for row in section["systems"]:
        skips = ", ".join(map(str, row["skips"])) or "–"
        hits = f"{row['hits']} %" if row["system"] in ("apart", "joined") else "any"
        speed, latency = interval(row["pictures_per_second"]), f"{row['latency_p50']:.1f} / {row['latency_p95']:.1f}"
        lines.append(f"| {row['system']} | {hits} | {skips} | {speed} | {latency} |")
    lines += [
        "",
        "| mix | joined ÷ uncached | step-count ratio | realised ÷ ideal | joined ÷ apart | joined ÷ static |",
        "|---|---|---|---|---|---|",
    ]
    for name, mix in section["mixes"].items():
        kinds = ("joined_over_uncached", "realised_over_ideal", "joined_over_apart", "joined_over_static")
        over, realised, apart, static = (interval(mix[kind]) for kind in kinds)
        lines.append(f"| {name} | **{over}** | {mix['step_count_ratio']:.3f} | {realised} | {apart} | {static} |")
    return [
        *lines,
        "",
        f"Uncached ÷ static batches of diffusers' pipeline: **{interval(section['uncached_over_static'])}**; "
        f"÷ one request at a time: {interval(section['uncached_over_one'])}.",
    ]


def _loop_row(model: str, row: Report) -> str:
    shares = " | ".join(f"{row[name]:.1%}" for name in ("network", "decoder", "outside", "outside_network"))
    return f"| {model} | {row['batch']} | {shares} | {row['step_ms_outside']:.2f} of {row['step_ms']:.1f} |"


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


INSIDE = ("resume_30pct", "full_nstar", "scratch_70pct", "full_50", "neighbour")
# The README has room for the answers, not for the sweep and the checks.
OUTSIDE_README = (
    "adversarial",
    "candidates",
    "chaos",
    "codec",
    "diversity",
    "eviction",
    "n_star",
    "n_star_dit",
    "api",
    "audit",
    "batching",
    "crash",
    "features",
    "features_batching",
    "gate",
    "heatmaps",
    "lookup",
    "matching",
    "overload",
    "pareto",
    "replay_exact",
    "soak",
    "solver_resume",
    "store",
    "tenancy",
    "veto",
)
SUMMARIES: dict[str, Callable[[Report], list[str]]] = {
    "batching": batching_summary,
    "chaos": chaos_summary,
    "crash": crash_summary,
    "eviction": eviction_summary,
    "features": features_summary,
    "lookup": lookup_summary,
    "matching": matching_summary,
    "overload": overload_summary,
}
SECTIONS: dict[str, tuple[str, Callable[[Report], list[str]]]] = {
    "n_star": ("How few steps are enough?", n_star_table),
    "n_star_dit": ("And for the transformer?", n_star_table),
    "resume": ("Does resuming beat fewer steps?", resume_table),
    "replay": ("Is a log of sessions served cheaper?", replay_table),
    "adversarial": ("Which pairs does similarity get wrong?", adversarial_table),
    "veto": ("What does the lexical veto see in real prompts?", veto_table),
    "overhead": ("What does the cache cost?", overhead_table),
    "batching": ("What is joining every request's steps worth?", batching_table),
    "features": ("What is feature caching worth?", features_table),
    "features_batching": ("And in mixed batches?", features_batching_table),
    "matching": ("Is a hit the right picture?", matching_table),
    "pareto": ("A cache, fewer steps, another model: which is on the front?", pareto_table),
    "gate": ("How does the network tell?", gate_table),
    "candidates": ("Several candidates: in turn or at once?", candidates_table),
    "audit": ("Does the shadow audit notice, and who pays for it?", audit_table),
    "replay_exact": ("Can an answered picture be drawn again bit for bit?", replay_exact_table),
    "heatmaps": ("Does a judge look at what it is asked about?", heatmaps_table),
    "codec": ("What do cheaper states cost in pictures?", codec_table),
    "diversity": ("How different can repeats be?", diversity_table),
    "lookup": ("How long does a lookup take?", lookup_table),
    "eviction": ("What should be forgotten first?", eviction_table),
    "soak": ("Does it survive a long day?", soak_table),
    "overload": ("Is a busy service still in time?", overload_table),
    "api": ("What does the HTTP path cost?", api_table),
    "crash": ("Is anything lost or mistaken when processes are killed?", crash_table),
    "chaos": ("Does it live through anything?", chaos_table),
    "store": ("What does keeping a state cost, and getting it back?", store_table),
    "tenancy": ("Does anything cross from one tenant to another?", tenancy_table),
    "solver_resume": ("How should a multistep solver resume?", solver_resume_table),
}


DOCUMENTS: dict[str, tuple[Path, Callable[[Report], list[str]]]] = {
    "candidates": (Path("docs/matching.md"), candidates_summary),
    "gate": (Path("docs/matching.md"), picture_summary),
    "heatmaps": (Path("docs/quality-tools.md"), heatmaps_table),
}
"""Blocks of other documents."""


def main() -> None:
    """Rewrite RESULTS.md and the marked blocks of README.md and other documents."""
    readme = Path("README.md").read_text()
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
        if name not in OUTSIDE_README:
            readme = replace_block(readme, name, lines)
        elif name in SUMMARIES:
            readme = replace_block(readme, name, SUMMARIES[name](report))
        if name in DOCUMENTS:
            place, summary = DOCUMENTS[name]
            place.write_text(replace_block(place.read_text(), name, summary(report)))
        document += _section(f"python -m benchmarks {name}{' --quick' * report['quick']} --out {path}", title, report)
        document += [*lines, "", "```json", json.dumps({"headline": report["headline"]}, indent=1), "```", ""]
    Path("README.md").write_text(readme)
    Path("benchmarks/RESULTS.md").write_text("\n".join(document))
    for name, (place, lines_of) in FROM_CODE.items():
        place.write_text(replace_block(place.read_text(), name, lines_of()))
    _write_tuning()


def _write_tuning() -> None:
    """Write the blocks of the reports that there are."""
    text = TUNING_DOCUMENT.read_text()
    for name, summary in TUNING.items():
        path = REPORTS / f"{name}.json"
        if path.exists():
            text = replace_block(text, name, summary(json.loads(path.read_text())))
    TUNING_DOCUMENT.write_text(text)


def _section(command: str, title: str, report: Report) -> list[str]:
    """The head of a section: what was run, for how long, and on what."""
    machine = report["machine"]
    where = f"{machine['cores']} cores ({machine['processor']}, {machine['device']}, torch {machine['torch']})"
    return [f"## {title}", "", f"`{command}`: {report['seconds']:.0f} s on {where}.", ""]


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
