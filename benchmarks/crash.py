"""Is anything lost or mistaken when processes are killed? kill -9 at random moments of a full load, in rounds.

Rounds at two levels. Store: a process with a `CacheStore` whose every state is a pure function of its prompt
(`crash_world`), so that a wrong one is recognised; it or its Redis is killed. Service: `headstart serve` on the
shipped model under requests of every kind; the service, its engine or its Redis is killed. Budgets are so small that
eviction never rests. After each round the store is repaired and checked, and every state it holds is loaded and
compared.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import crash_service, crash_store
from benchmarks.crash_load import Ledger
from benchmarks.crash_store import Round

SEED = 5
ROUNDS = {"store": 32, "service": 18}
QUICK_ROUNDS = {"store": 8, "service": 3}
SHOWN = 20


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Kill and return the report."""
    return measure(QUICK_ROUNDS if quick else ROUNDS, quiet=quiet)


def measure(
    rounds: dict[str, int], *, quiet: bool, seed: int = SEED, settings: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run so many rounds at each level."""
    with (
        tempfile.TemporaryDirectory(prefix="headstart-crash-") as name,
        tqdm(total=sum(rounds.values()), disable=quiet) as bar,
    ):
        folder = Path(name)
        below, seen = crash_store.run_rounds(folder, rounds["store"], seed, bar.update)
        above, ledger, status = asyncio.run(
            crash_service.run_rounds(
                folder, rounds["service"], seed, bar.update, kinds=crash_service.KINDS, settings=settings
            )
        )
        log = (folder / "service.log").read_text(errors="replace")
    return report([*below, *above], seen, ledger, status, log)


def report(found: list[Round], seen: dict[str, Any], ledger: Ledger, status: int, log: str) -> dict[str, Any]:
    """Sum up the rounds, what the store's users saw and what the service's clients saw."""
    problems = [problem for one in found for problem in one.problems]
    headline = {
        "rounds": len(found),
        "wrong_states": seen.get("wrong", 0) + len(ledger.wrong),
        "failed_requests": seen.get("failed", 0) + len(ledger.failed),
        "integrity_problems_after_repair": len(problems),
        "worst_recovery_seconds": max(one.recovery_seconds for one in found),
    }
    clean = (
        not any(headline[name] for name in list(headline)[1:4]) and not seen.get("missing_at_rest") and status == 0
    )
    return {
        "headline": headline,
        "passed": clean and "Traceback" not in log,
        "kinds": _kinds(found),
        "store": seen,
        "service": {
            "verdicts": dict(ledger.verdicts),
            "wrong": ledger.wrong[:SHOWN],
            "failed": ledger.failed[:SHOWN],
            "lost_with_the_service": ledger.lost,
            "exact_hits_of_unseen_pictures": ledger.unseen,
            "exit_status": status,
            "tracebacks": log.count("Traceback"),
        },
        "problems": problems[:SHOWN],
    }


def _kinds(found: list[Round]) -> list[dict[str, Any]]:
    """One row per level and kind of kill."""
    counts = Counter((one.level, one.kind) for one in found)
    rows = []
    for (level, kind), count in sorted(counts.items()):
        these = [one for one in found if (one.level, one.kind) == (level, kind)]
        seconds = sorted(one.recovery_seconds for one in these)
        rows.append(
            {
                "level": level,
                "killed": kind,
                "rounds": count,
                "recovery_median": seconds[len(seconds) // 2],
                "recovery_worst": seconds[-1],
                "problems_before_repair": sum(one.found for one in these),
                "problems_after_repair": sum(len(one.problems) for one in these),
                "states_compared_at_rest": sum(one.loaded for one in these),
            }
        )
    return rows
