"""The table of `benchmarks/chaos.py`."""

from collections import Counter
from typing import Any

from benchmarks.facts import interval


def chaos_summary(report: dict[str, Any]) -> list[str]:
    """The answer, for the README."""
    head = report["headline"]
    return [
        f"{head['requests']} requests, good, bad and cut off, while engine and Redis were killed and the disk ran "
        f"full ({head['faults']} faults): **{head['jobs_without_a_known_end']}** of {head['jobs_accepted']} accepted "
        f"jobs without a known end, **{head['wrong']}** answers otherwise than documented."
    ]


def chaos_table(report: dict[str, Any]) -> list[str]:
    """How requests ended, what was done to the service, and what was found when it was over."""
    done = Counter(fault["kind"] for fault in report["faults"])
    faults = ", ".join(f"{count} × {kind}" for kind, count in sorted(done.items()))
    lines = [
        *chaos_summary(report),
        "",
        f"Tiny model with random weights, {report['clients']} clients, {report['seconds_of_load']:.0f} s of load; "
        f"data on {report['disk']}. Done to the service: {faults}.",
        "",
        "| kind of request | ends |",
        "|---|---|",
    ]
    for kind, ends in report["ends"].items():
        lines.append(f"| {kind} | " + ", ".join(f"{end} {count}" for end, count in ends.items()) + " |")
    return [*lines, "", *_findings(report), "", *_recoveries(report)]


def _findings(report: dict[str, Any]) -> list[str]:
    checks, livez, log = report["checks"], report["livez"], report["log"]
    jobs = ", ".join(f"{end} {count}" for end, count in sorted(report["jobs"].items()))
    why = ", ".join(f"{code} {count}" for code, count in sorted(report["job_codes"].items())) or "none"
    grown = interval(report["growth"]["api"]["rss_kb"], digits=0)
    pictures, store = checks["pictures"], checks["store"]
    replays = ", ".join(f"{end} {count}" for end, count in sorted(checks["replays"].items())) or "none"
    start, end = (report["processes"][when]["api"] for when in ("start", "end"))
    return [
        f"Jobs: {jobs} (failed, by code: {why}); asked for again when all was over, "
        f"{checks['jobs_asked_again'].get('same', 0)} stood as they had ended. "
        f"/livez: {livez['unanswered']} of {livez['asked']} unanswered, the slowest after "
        f"{livez['slowest_seconds']:.1f} s. Full runs and exact repeats drawn again undisturbed: "
        f"{pictures.get('identical', 0)} of {sum(pictures.values())} the same to the bit. Resumed runs replayed: "
        f"{replays}. Store: {store['problems_before_repair']} → {store['problems_after_repair']} disagreements "
        f"before and after the repair. API process from start to end: {start['rss_kb'] // 1024} → "
        f"{end['rss_kb'] // 1024} MB, {start['descriptors']} → {end['descriptors']} descriptors; "
        f"{grown} kB per 1000 requests over the second half. "
        f"Log: {log['tracebacks']} tracebacks, {log['leaked_prompts']} prompts.",
    ]


def _recoveries(report: dict[str, Any]) -> list[str]:
    lines = ["| fault | times | recovery once over or noticed, median / worst, s |", "|---|---|---|"]
    for kind in sorted({fault["kind"] for fault in report["faults"]}):
        seconds = sorted(fault["recovery_seconds"] for fault in report["faults"] if fault["kind"] == kind)
        lines.append(f"| {kind} | {len(seconds)} | {seconds[len(seconds) // 2]:.1f} / {seconds[-1]:.1f} |")
    return lines
