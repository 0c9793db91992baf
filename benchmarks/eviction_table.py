"""The table of `benchmarks/eviction.py` for RESULTS.md."""

from typing import Any

from benchmarks.facts import interval

Report = dict[str, Any]


def eviction_table(report: Report) -> list[str]:
    """Saved compute by workload, table, policy and size; ratios; what F&R makes of a wrong predictor."""
    head = report["headline"]
    lines = [
        f"Data: {report['data']}. Steps saved, in %, of the last {1 - report['tuned_on']:.0%} of each workload; "
        "sizes are shares of all states that Nirvana's rules store without bound. `nirvana` is the published set-up "
        "(nearest text only, full runs stored, LCBFU from 0 uses), `modm` a window of final pictures without its "
        "smaller model and its text-to-image score; all others look at eight candidates and store what resumed runs "
        "compute. The divergence gate is not simulated. Pooled: mean over the sizes.",
        "",
        f"Best: **{head['best_policy']}**: {head['best_over_lcbfu']:.2f} times what Nirvana saves, "
        f"{head['best_over_lcbfu_same_rules']:.2f} times LCBFU under the same rules, "
        f"{head['best_over_oracle']:.1%} of the oracle (pooled over workloads and tables with equal weight).",
    ]
    for case in report["cases"]:
        lines += ["", *_case(case, report["shares"])]
    return [*lines, "", *_noise(report["noise"]), "", "![Saved compute](../docs/images/eviction.png)"]


def eviction_summary(report: Report) -> list[str]:
    """The answer, for the README."""
    head = report["headline"]
    return [
        f"Replayed on {' and '.join(dict.fromkeys(case['workload'] for case in report['cases']))}, caches of 1 % to "
        f"50 % of all states: `{head['best_policy']}` saves **{head['saved_compute']:.1%}** of all steps, "
        f"**{head['best_over_lcbfu']:.2f}** times what Nirvana's rules save, {head['best_over_oracle']:.0%} of what "
        "an oracle does that knows the future."
    ]


def _case(case: Report, shares: list[float]) -> list[str]:
    requests = ", ".join(map(str, case["requests"]))
    lines = [
        f"**{case['workload']}, table {case['table']}**: {requests} requests; intervals over "
        f"{case['interval_over']}; without bound {case['unbounded']:.1%}, "
        f"no cache can save more than {case['ceiling']:.1%}.",
        "",
        "| policy | " + " | ".join(f"{share:.0%}" for share in shares) + " | pooled | ÷ nirvana | ÷ oracle |",
        "|---" * (len(shares) + 4) + "|",
    ]
    ranked = sorted(case["policies"].items(), key=lambda item: -item[1]["pooled"]["value"])
    for name, row in ranked:
        cells = [f"{100 * figure['value']:.1f}" for figure in row["saved"]]
        cells += [interval(row["pooled"], 100, 1), interval(row["over_nirvana"], digits=2)]
        lines.append(f"| {name} | " + " | ".join([*cells, interval(row["over_oracle"], digits=2)]) + " |")
    return lines


def _noise(noise: Report) -> list[str]:
    lines = [
        f"Follow and robust on the pages of {noise['log']} ({noise['requests']} requests, {noise['pages']} pages, "
        f"{noise['k']} fit):",
        "",
        "| algorithm | predictor | faults | queries |",
        "|---|---|---|---|",
    ]
    keys = ("algorithm", "predictor", "faults", "queries")
    return lines + ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in noise["rows"]]
