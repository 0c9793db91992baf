"""The table of `benchmarks/crash.py`."""

from typing import Any


def crash_summary(report: dict[str, Any]) -> list[str]:
    """The answer, for the README."""
    head = report["headline"]
    return [
        f"Service, engine and Redis were killed {head['rounds']} times at random moments of a full load: "
        f"**{head['wrong_states']}** wrong states or pictures served, **{head['failed_requests']}** requests failed, "
        f"{head['integrity_problems_after_repair']} disagreements left after the repair."
    ]


def crash_table(report: dict[str, Any]) -> list[str]:
    """Rounds by what was killed, and what its users saw."""
    head, store, service = report["headline"], report["store"], report["service"]
    lines = [
        f"{head['rounds']} times kill -9 at a random moment of a full load: **{head['wrong_states']}** wrong states "
        f"or pictures served, **{head['failed_requests']}** requests failed, "
        f"**{head['integrity_problems_after_repair']}** integrity problems left after the repair. The store alone: "
        f"{store.get('loads', 0)} states loaded, {store.get('exact', 0)} exact hits and {store.get('writes', 0)} "
        f"writes meanwhile. The service: verdicts {service['verdicts']}; {service['lost_with_the_service']} requests "
        "were open, or came, while it was dead itself.",
        "",
        "| level | killed | rounds | recovery, median / worst, s | problems before → after repair "
        "| states compared at rest |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["kinds"]:
        recovery = f"{row['recovery_median']:.1f} / {row['recovery_worst']:.1f}"
        problems = f"{row['problems_before_repair']} → {row['problems_after_repair']}"
        cells = (row["level"], row["killed"], row["rounds"], recovery, problems, row["states_compared_at_rest"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines
