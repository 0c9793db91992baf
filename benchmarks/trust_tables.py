"""The tables of `benchmarks/audit.py`, `benchmarks/replay_exact.py` and `benchmarks/api.py`."""

from typing import Any

from benchmarks.facts import interval

PHASES = {
    "before": "subjects the table knows",
    "until_tightened": "after the change, until the first factor fell",
    "after_tightened": "from then on",
    "end": "after the last factor fell",
}


def audit_table(report: dict[str, Any]) -> list[str]:
    """Cost to a client, then the drift."""
    cost, drift = report["overhead"], report["drift"]
    lines = [
        f"One client with pauses, {cost['requests']} requests of each service, every approximate hit audited "
        f"({cost['audited_hits']}; {cost['gave_way']:g} audits gave way to a request; they took "
        f"{cost['audit_gpu_seconds']:.0f} of {cost['gpu_seconds']:.0f} GPU seconds). Latency ÷ that without audits: "
        f"median **{interval(cost['p50_ratio'])}**, 95th percentile **{interval(cost['p95_ratio'])}**.",
        "",
        f"A log that changes to subjects whose hits go wrong, behind a table whose bounds are far too lax (bound "
        f"{drift['bound']:.0%}): {_fell(drift)}.",
        "",
        "| requests | | hits | bad | better | bad-hit rate |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in PHASES.items():
        row = drift[name]
        rate = f"{row['bad_rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["hits"] else "–"
        lines.append(f"| {row['requests']} | {label} | {row['hits']} | {row['bad']} | {row['good']} | {rate} |")
    return lines


def _fell(drift: dict[str, Any]) -> str:
    if drift["audits_to_tighten"] is None:
        hits = drift["until_tightened"]["hits"]
        return f"in {hits} audited hits no factor fell"
    return (
        f"the first factor fell after {drift['audits_to_tighten']} audited hits, the last after "
        f"{drift['audits_to_settle']}; the cache {'closed itself' if drift['closed'] else 'stayed open'}"
    )


def replay_exact_table(report: dict[str, Any]) -> list[str]:
    """Per part how many pictures were drawn again bit for bit."""
    lines = [
        "| service | pictures | drawn again bit for bit | largest difference | sources redrawn | without a picture |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "tiny": "tiny model, batch-invariant",
        "shipped": "scenes-unet, batch-invariant",
        "joint": "scenes-unet, joint batches (the default)",
    }
    for name, label in names.items():
        part = report[name]
        refused = ", ".join(f"{code} {count}" for code, count in sorted(part["refused"].items())) or "0"
        lines.append(
            f"| {label} | {part['pictures']} | **{part['identical_share']:.1%}** | {part['worst']} of 255 "
            f"| {part['again']} | {refused} |"
        )
    costs = "; ".join(f"{row['jobs']}: {interval(row['ratio'], digits=2)}" for row in report["cost"])
    return [*lines, "", f"A joint step row by row ÷ as one batch, by pictures in it: {costs}."]


def api_table(report: dict[str, Any]) -> list[str]:
    """Every system's requests per second and 99th percentile, and the ratios."""
    lines = [
        f"{report['connections']} connections, {report['rounds']} turns of {report['seconds_per_turn']:g} s of each "
        "system, medians over the turns.",
        "",
        "| system | requests per second | p50, ms | p99, ms |",
        "|---|---|---|---|",
    ]
    for name, row in report["systems"].items():
        lines.append(f"| {name} | {row['rps']:.0f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} |")
    ratios = {name: value for name, value in report.items() if name.startswith("rps_over_") and value}
    shown = "; ".join(f"{name.removeprefix('rps_over_')} {interval(value)}" for name, value in ratios.items())
    return [*lines, "", f"Requests per second of the service ÷ those of: {shown}."]
