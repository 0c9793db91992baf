"""What `benchmarks audit` says of a log that changes its subject."""

from typing import Any

from benchmarks.audit_drift import _report
from benchmarks.trust_tables import audit_table

INTERVAL = {"value": 1.0, "low": 0.9, "high": 1.1}
COST = {
    "requests": 10,
    "audited_hits": 5,
    "gave_way": 1.0,
    "audit_gpu_seconds": 2.0,
    "gpu_seconds": 9.0,
    "p50_ratio": INTERVAL,
    "p95_ratio": INTERVAL,
}


def steps(count: int, *, falls_at: int | None, outcome: str = "bad") -> list[dict[str, Any]]:
    return [
        {
            "verdict": "APPROX",
            "outcome": outcome,
            "factors": {"all": 0.7 if falls_at is not None and number >= falls_at else 1.0},
        }
        for number in range(count)
    ]


def shown(hard: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    found = {"factors": hard[-1]["factors"], "bound": 0.05}
    drift = _report(steps(3, falls_at=None, outcome="even"), hard, found)
    return drift, "\n".join(audit_table({"overhead": COST, "drift": drift}))


def test_hits_are_counted_until_the_first_factor_fell() -> None:
    drift, text = shown(steps(20, falls_at=6))
    assert (drift["audits_to_tighten"], drift["audits_to_settle"]) == (7, 7)
    assert (drift["until_tightened"]["hits"], drift["after_tightened"]["hits"]) == (7, 13)
    assert "fell after 7 audited hits" in text


def test_an_audit_that_never_noticed_is_not_said_to_have() -> None:
    drift, text = shown(steps(20, falls_at=None))
    assert drift["audits_to_tighten"] is None
    assert "in 20 audited hits no factor fell" in text
    assert "fell after" not in text
