"""A session log changes its subject half-way, to edits that a table with far too lax bounds resumes all the same.

First repeats and rewordings, which even that table serves well; then edits of one attribute each. Every approximate
hit is audited. What matters is how many hits it takes until the audit acts, and what is delivered from then on.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.live import live_service
from policies.matching.evidence import interval
from policies.matching.table import ThresholdRow, ThresholdTable
from service.settings import DEFAULT_MODEL
from training.pairs import SESSION_MIX, Pair, sample_pairs

SEED = 4321
EASY = {"retry": 0.5, "wording": 0.5}
HARD = {kind: odds for kind, odds in SESSION_MIX.items() if kind not in EASY}
LAX_DIVERGENCE, LAX_SIMILARITY = 10.0, 0.5
_PATIENCE_SECONDS = 120.0


def measure(before: int, after: int) -> dict[str, Any]:
    """Replay `before` easy pairs and `after` hard ones against a service with a lax table; return what happened."""
    with tempfile.TemporaryDirectory(prefix="headstart-drift-") as folder:
        table = _lax_table(Path(folder) / "lax.json")
        with (
            live_service(audit_share="1", matching_table=str(table)) as url,
            httpx.Client(base_url=url, timeout=300) as client,
        ):
            easy = [_step(client, pair) for pair in sample_pairs(SEED, before, EASY)]
            hard = [_step(client, pair) for pair in sample_pairs(SEED + 1, after, HARD)]
            found = dict(client.get("/v1/cache/audit").json())
    return _report(easy, hard, found)


def total(found: dict[str, Any]) -> dict[str, Any]:
    """Return the band of all audited hits of an answer of /v1/cache/audit."""
    whole = [band for band in found["bands"] if (band["similarity"], band["skip"]) == ("all", "all")]
    return whole[0] if whole else {"hits": 0, "bad": 0, "good": 0}


def _lax_table(path: Path) -> Path:
    table = ThresholdTable.load(DEFAULT_MODEL / "matching.json")
    rows = tuple(ThresholdRow(row.skip, LAX_SIMILARITY, LAX_DIVERGENCE * row.max_divergence) for row in table.rows)
    replace(table, rows=rows).save(path)
    return path


def _step(client: httpx.Client, pair: Pair) -> dict[str, Any]:
    """Draw the source in full, then what follows it; wait for the audit of a hit."""
    _draw(client, pair.source.text, {"Cache-Control": "no-cache"})
    time.sleep(0.2)  # it is written behind the answer
    before = _verdicts(client)
    cache = _draw(client, pair.target.text, {})
    hit = cache["verdict"] == "APPROX"
    seen = _await_audit(client, before) if hit else before
    found = dict(client.get("/v1/cache/audit").json())
    return {
        "kind": pair.kind,
        "verdict": cache["verdict"],
        "reason": cache["reason"],
        "skipped": cache["skipped_steps"],
        "divergence": cache["divergence"],
        "outcome": next((name for name in seen if seen[name] > before.get(name, 0)), None),
        "factors": found["factors"],
    }


def _draw(client: httpx.Client, text: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = client.post("/v1/images/generations", json={"prompt": text}, headers=headers)
    answer.raise_for_status()
    return dict(answer.json()["data"][0]["cache"])


def _await_audit(client: httpx.Client, before: dict[str, float]) -> dict[str, float]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now = _verdicts(client)
        if sum(now.values()) > sum(before.values()):
            return now
        time.sleep(0.1)
    raise RuntimeError("a hit was never audited")


def _verdicts(client: httpx.Client) -> dict[str, float]:
    """Audited hits so far by verdict, and those that could not be audited."""
    counts: dict[str, float] = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(("headstart_audit_hits_total{", "headstart_audit_dropped_total{")):
            labels, value = line.rsplit(" ", 1)
            key = "verdict" if "verdict=" in labels else "reason"
            name = labels.split(f'{key}="', 1)[1].split('"', 1)[0]
            counts[name] = counts.get(name, 0.0) + float(value)
    return counts


def _report(easy: list[dict[str, Any]], hard: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    fell = next((i for i, step in enumerate(hard) if min(step["factors"].values()) < 1.0), None)
    acted = len(hard) - 1 if fell is None else fell
    last = next((i for i in range(len(hard) - 1, 0, -1) if hard[i]["factors"] != hard[i - 1]["factors"]), acted)
    return {
        "before": _summary(easy),
        "until_tightened": _summary(hard[: acted + 1]),
        "after_tightened": _summary(hard[acted + 1 :]),
        "end": _summary(hard[last + 1 :]),
        "audits_to_tighten": None if fell is None else _hits(hard[: acted + 1]),
        "audits_to_settle": None if fell is None else _hits(hard[: last + 1]),
        "closed": found["factors"]["all"] == 0.0,
        "factors": found["factors"],
        "bound": found["bound"],
        "trajectory": [{"phase": "easy", **step} for step in easy] + [{"phase": "hard", **step} for step in hard],
    }


def _hits(steps: list[dict[str, Any]]) -> int:
    return sum(step["verdict"] == "APPROX" for step in steps)


def _summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    hits = [step for step in steps if step["verdict"] == "APPROX"]
    bad = sum(step["outcome"] == "bad" for step in hits)
    good = sum(step["outcome"] == "good" for step in hits)
    low, high = interval(bad, good, len(hits))
    rate = (bad - good) / len(hits) if hits else 0.0
    counts = {"requests": len(steps), "hits": len(hits), "bad": bad, "good": good}
    return {**counts, "bad_rate": rate, "low": low, "high": high}
