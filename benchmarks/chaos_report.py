"""What a chaos run comes to."""

from collections import Counter
from typing import Any

from benchmarks.chaos_ledger import ChaosLedger

SHOWN = 30
# Connections to Redis are kept: as many as were ever needed at once.
MORE_DESCRIPTORS = 120
MORE_KB = 150_000
PARTS = ("api", "redis")
"""Whose growth is bounded; the engine is another one at the end than at the start."""


def report(chaos: dict[str, Any]) -> dict[str, Any]:
    """Return the report of what a run left behind."""
    ledger: ChaosLedger = chaos.pop("ledger")
    jobs = Counter(note.end or "unknown" for note in ledger.jobs.values())
    livez, processes = chaos.pop("livez"), chaos["processes"]
    grown = [part for part in PARTS if not bounded(processes["start"].get(part), processes["end"].get(part))]
    found = chaos | {
        "ends": {kind: _of(ledger, kind) for kind in sorted({kind for kind, _ in ledger.ends})},
        "statuses": dict(sorted(ledger.statuses.items())),
        "jobs": dict(jobs),
        "job_codes": dict(Counter(note.code for note in ledger.jobs.values() if note.code)),
        "verdicts": dict(ledger.verdicts),
        "pictures_not_kept": ledger.gone,
        "livez": {
            "asked": len(livez),
            "unanswered": sum(not alive for alive, _ in livez),
            "slowest_seconds": max((seconds for _, seconds in livez), default=0.0),
        },
        "grown": grown,
        "wrong_count": len(ledger.wrong),
        "wrong": ledger.wrong[:SHOWN],
    }
    return {"headline": headline(found), "passed": passed(found), **found}


def _of(ledger: ChaosLedger, kind: str) -> dict[str, int]:
    return {end: count for (one, end), count in sorted(ledger.ends.items()) if one == kind}


def bounded(start: dict[str, int] | None, end: dict[str, int] | None) -> bool:
    """Whether a process has not grown beyond what a run may cost it; one that is missing has."""
    if start is None or end is None:
        return False
    return (
        end["descriptors"] - start["descriptors"] <= MORE_DESCRIPTORS and end["rss_kb"] - start["rss_kb"] <= MORE_KB
    )


def headline(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that count."""
    checks = found["checks"]
    compared = sum(checks["pictures"].values()) + checks["replays"].get("identical", 0)
    return {
        "requests": found["requests"],
        "faults": len(found["faults"]),
        "jobs_accepted": sum(found["jobs"].values()),
        "jobs_without_a_known_end": found["jobs"].get("unknown", 0),
        "wrong": found["wrong_count"],
        "livez_unanswered": found["livez"]["unanswered"],
        "pictures_compared": compared,
        "integrity_problems_after_repair": checks["store"]["problems_after_repair"],
        "worst_recovery_seconds": max((fault["recovery_seconds"] for fault in found["faults"]), default=0.0),
    }


def passed(found: dict[str, Any]) -> bool:
    """Whether everything that must hold held."""
    log = found["log"]
    return (
        not (found["wrong_count"] or found["jobs"].get("unknown") or found["livez"]["unanswered"] or found["grown"])
        and not (log["tracebacks"] or log["unexpected"] or log["leaked_prompts"])
        and found["exit_status"] == 0
    )
