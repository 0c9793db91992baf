"""What a soak's outcomes come to."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.soak_client import Drawn, Outcome, difference
from benchmarks.soak_watch import PARTS

# A sum in another order (the rows of another batch) may tip a rounded pixel over; a foreign picture is far off.
LEVELS_ALLOWED = 2


def ends(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Count how requests ended, by kind, status, code and verdict."""
    drawn = [picture for outcome in outcomes for picture in outcome.drawn]
    seconds = [outcome.seconds for outcome in outcomes if outcome.end == "pictures"]
    return {
        "ends": {
            kind: dict(Counter(outcome.end for outcome in outcomes if outcome.shot.kind == kind))
            for kind in sorted({outcome.shot.kind for outcome in outcomes})
        },
        "statuses": dict(Counter(str(outcome.status) for outcome in outcomes if outcome.status)),
        "codes": dict(Counter(outcome.code for outcome in outcomes if outcome.end == "refused")),
        "pictures": len(drawn),
        "verdicts": dict(Counter(picture.verdict for picture in drawn)),
        "reasons": dict(Counter(picture.reason for picture in drawn)),
        "seconds": {f"p{share}": float(np.percentile(seconds, share)) for share in (50, 95, 99, 100)},
    }


def told(outcome: Outcome) -> dict[str, Any]:
    """What a reader needs to look into one request."""
    shot = outcome.shot
    what = {"kind": shot.kind, "method": shot.method, "path": shot.path, "body": shot.body[:200].decode("latin-1")}
    return what | {"end": outcome.end, "status": outcome.status, "code": outcome.code, "seconds": outcome.seconds}


def probes(sent: Sequence[Outcome], alone: Sequence[Outcome]) -> dict[str, Any]:
    """Compare all probes with the first; those sent while nothing else ran have to be the same to the bit."""
    pictures = [outcome.drawn[0].data for outcome in sent if outcome.drawn]
    levels = [difference(pictures[0], picture) for picture in pictures]
    return {
        "sent": len(sent),
        "turned_away": sum(outcome.status == 429 for outcome in sent),
        "drawn": len(pictures),
        "alone": len(alone),
        "alone_identical": len({outcome.drawn[0].data for outcome in alone if outcome.drawn}) == 1,
        "identical": sum(picture == pictures[0] for picture in pictures),
        "mismatches": sum(level > LEVELS_ALLOWED for level in levels),
        "max_difference": max(levels, default=None),
        "hashes": dict(Counter(hashlib.sha256(picture).hexdigest()[:16] for picture in pictures)),
    }


def repeats(pairs: Sequence[tuple[Drawn, Outcome]]) -> dict[str, Any]:
    """Compare pictures drawn in mixed batches with the same drawn alone."""
    levels = Counter(difference(first.data, again.drawn[0].data) for first, again in pairs if again.drawn)
    return {
        "compared": levels.total(),
        "missing": len(pairs) - levels.total(),
        "identical": levels[0],
        "by_difference": {str(level): count for level, count in sorted(levels.items())},
        "max_difference": max(levels, default=None),
    }


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures that count."""
    growth, wrong = report["growth"], report["wrong"]
    return {
        "requests": report["requests"],
        "unended": sum(told["end"] in ("hung", "broken") for told in wrong),
        "unexpected_errors": sum(told["end"] == "wrong" for told in wrong),
        "probe_mismatches": report["probes"]["mismatches"],
        "probes_identical_share": report["probes"]["identical"] / max(1, report["probes"]["drawn"]),
        "probe_max_difference": report["probes"]["max_difference"],
        "repeat_max_difference": report["repeats"]["max_difference"],
        "engine_kills": report["kills"],
        "failed_checks": sum(not check["holds"] for check in report["checks"]),
        "rss_slope_kb_per_1000": sum(growth[part]["rss_kb"]["value"] for part in ("api", "engine")),
        **{f"rss_slope_kb_per_1000_{part}": growth[part]["rss_kb"]["value"] for part in PARTS},
    }


def passed(report: dict[str, Any]) -> bool:
    """Whether everything that must hold held; growth is for a reader to judge."""
    log, seen = report["log"], report["probes"]
    return (
        not report["wrong"]
        and seen["alone_identical"]
        and seen["drawn"] > 0
        and seen["mismatches"] == 0
        and all(int(level) <= LEVELS_ALLOWED for level in report["repeats"]["by_difference"])
        and all(check["holds"] for check in report["checks"])
        and not (log["tracebacks"] or log["unexpected"] or log["leaked_prompts"] or log["strays"])
        and report["exit_status"] == 0
    )
