"""What does the shadow audit cost a client, and does it catch a table that no longer holds?

Overhead: one client with pauses, who asks the same of two services in turns, one with every approximate hit audited
and one without audits; floor: a ratio of latencies of 1, since audits run in the client's pauses only. Before either
is asked, the other's audits have run out, so that neither disturbs the other. See `benchmarks.audit_drift` for the
second question; its floor is a service that never notices, its ceiling one that never delivers a bad hit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks import audit_drift
from benchmarks.facts import Floats, statistic_interval
from benchmarks.live import live_service
from training.pairs import Pair, sample_pairs

SEED = 77
MEAN_PAUSE = 0.9  # longer than an audit waits for silence, short enough to come back in the middle of one
SHORTEST_PAUSE = 0.3


@dataclass(frozen=True, slots=True)
class Service:
    """A running service and the client's latencies there, in seconds."""

    client: httpx.Client
    latencies: list[float]


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer rounds and a shorter log."""
    overhead = _overhead(rounds=3 if quick else 10, pairs=5 if quick else 8)
    drift = audit_drift.measure(before=20 if quick else 60, after=40 if quick else 160)
    return {
        "headline": {
            "latency_p50_ratio": overhead["p50_ratio"]["value"],
            "latency_p95_ratio": overhead["p95_ratio"]["value"],
            "audits_to_tighten": drift["audits_to_tighten"],
            "bad_rate_until_tightened": drift["until_tightened"]["bad_rate"],
            "bad_rate_at_the_end": drift["end"]["bad_rate"],
            "closed": float(drift["closed"]),
        },
        "overhead": overhead,
        "drift": drift,
    }


def _overhead(rounds: int, pairs: int) -> dict[str, Any]:
    with (
        live_service(judge="") as plain_url,
        live_service(audit_share="1") as audited_url,
        httpx.Client(base_url=plain_url, timeout=300) as plain_client,
        httpx.Client(base_url=audited_url, timeout=300) as audited_client,
    ):
        plain, audited = Service(plain_client, []), Service(audited_client, [])
        for number in range(rounds + 1):
            if number == 1:  # the first round warms both up, and loads the judge
                plain.latencies.clear()
                audited.latencies.clear()
            log = sample_pairs(SEED + number, pairs, audit_drift.EASY)
            for service in (plain, audited) if number % 2 else (audited, plain):
                _ask(service, log, SEED + number)
                drain(audited.client)
        return _compare(plain, audited)


def _ask(service: Service, log: list[Pair], seed: int) -> None:
    """Ask for both prompts of every pair, with pauses that are the same for both services."""
    pauses = np.random.default_rng(seed)
    for pair in log:
        for text in (pair.source.text, pair.target.text):
            time.sleep(SHORTEST_PAUSE + pauses.exponential(MEAN_PAUSE - SHORTEST_PAUSE))
            started = time.perf_counter()
            service.client.post("/v1/images/generations", json={"prompt": text}).raise_for_status()
            service.latencies.append(time.perf_counter() - started)


def drain(client: httpx.Client, seconds: float = 120.0) -> dict[str, Any]:
    """Wait until no hit waits for its audit and none is in work; return what the audit says then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = dict(client.get("/v1/cache/audit").json())
        if found["queued"] == 0:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{found['queued']} hits still wait for their audit")


def _compare(plain: Service, audited: Service) -> dict[str, Any]:
    rows = [np.array(audited.latencies), np.array(plain.latencies)]
    found = drain(audited.client)
    return {
        "p50_ratio": statistic_interval(rows, _ratio_of(50), 0, 4000),
        "p95_ratio": statistic_interval(rows, _ratio_of(95), 0, 4000),
        "mean_ratio": statistic_interval(rows, lambda both: float(both[0].mean() / both[1].mean()), 0, 4000),
        "p50_seconds": {"audited": float(np.median(rows[0])), "plain": float(np.median(rows[1]))},
        "p95_seconds": {"audited": float(np.percentile(rows[0], 95)), "plain": float(np.percentile(rows[1], 95))},
        "requests": len(rows[0]),
        "audited_hits": audit_drift.total(found)["hits"],
        "gave_way": _counter(audited.client, "headstart_audit_interrupted_total"),
        "audit_gpu_seconds": _counter(audited.client, "headstart_audit_gpu_seconds_total"),
        "gpu_seconds": _counter(audited.client, "headstart_gpu_seconds_total"),
    }


def _ratio_of(percent: int) -> Callable[[list[Floats]], float]:
    return lambda both: float(np.percentile(both[0], percent) / np.percentile(both[1], percent))


def _counter(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
