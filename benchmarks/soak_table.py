"""The table of `benchmarks/soak.py`."""

from collections import Counter
from typing import Any

import numpy as np

from benchmarks.facts import interval


def soak_table(report: dict[str, Any]) -> list[str]:
    """What a day of every kind of request, with faults, left behind."""
    headline, done = report["headline"], Counter(fault["kind"] for fault in report["faults"])
    faults = ", ".join(f"{count} × {kind}" for kind, count in sorted(done.items()))
    slowest = max(fault["recovery_seconds"] for fault in report["faults"] if fault["kind"] == "engine-kill")
    lines = [
        f"{report['requests']} requests from {report['clients']} clients, {report['requests_per_second']:.1f} a "
        f"second: {headline['unended']} never ended, {headline['unexpected_errors']} were answered otherwise than "
        f"documented. Done to the service: {faults}; an engine was back after at most {slowest:.1f} s.",
        "",
        *_soak_ends(report["ends"]),
        "",
        *_soak_findings(report),
        "",
        "Growth per 1000 requests over the second half, which has no faults:",
        "",
        "| process | memory, kB | descriptors | threads | memory at the end, MB |",
        "|---|---|---|---|---|",
    ]
    lines += [_growth_row(part, figures) for part, figures in report["growth"].items()]
    late = ", ".join(f"{part} {_late_growth(report, part):.0f}" for part in report["growth"])
    return [
        *lines,
        "",
        f"Memory over the last fifth, kB per 1000 requests: {late}.",
        "",
        "![Memory over the run](../docs/images/soak.png)",
    ]


def _late_growth(report: dict[str, Any], part: str) -> float:
    """Slope of a process' memory over the last fifth of the requests, kB per 1000."""
    late = [one for one in report["series"] if one["finished"] >= 0.8 * report["requests"] and one.get(part)]
    requests, memory = [one["finished"] / 1000 for one in late], [one[part]["rss_kb"] for one in late]
    return float(np.polyfit(requests, memory, 1)[0]) if len(late) > 2 else float("nan")


def _soak_findings(report: dict[str, Any]) -> list[str]:
    probes, repeats, checks, log = (report[name] for name in ("probes", "repeats", "checks", "log"))
    alone = "all" if probes["alone_identical"] else "not all"
    return [
        f"Probes: {probes['identical']} of {probes['drawn']} equal to the bit (of those drawn alone: {alone}), at "
        f"most {probes['max_difference']} of 255 levels apart. {repeats['compared']} full runs of mixed batches, "
        f"drawn again alone: {repeats['identical']} equal to the bit, at most {repeats['max_difference']} levels "
        f"apart. Metrics against clients: {sum(check['holds'] for check in checks)} of {len(checks)} checks hold. "
        f"Log: {log['tracebacks']} tracebacks, {log['leaked_prompts']} prompts.",
    ]


def _soak_ends(ends: dict[str, dict[str, int]]) -> list[str]:
    names = sorted({name for counts in ends.values() for name in counts})
    lines = ["| kind of request | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    return lines + [
        f"| {kind} | " + " | ".join(str(c.get(name, 0)) for name in names) + " |" for kind, c in ends.items()
    ]


def _growth_row(part: str, figures: dict[str, dict[str, float]]) -> str:
    cells = [interval(figures[name], digits=digits) for name, digits in GROWTH.items()]
    return f"| {part} | " + " | ".join(cells) + f" | {figures['rss_kb']['last'] / 1024:.0f} |"


GROWTH = {"rss_kb": 0, "descriptors": 2, "threads": 2}
