import math

import pytest
from service_samples import plan, result

from service.api.verdict_headers import cache_label, headers_of
from service.generator import Picture
from service.metrics import Metrics
from service.types import Verdict, VerdictKind
from service.verdicts import run_verdict


def test_a_resumed_run_names_the_source_it_used() -> None:
    verdict = run_verdict(
        plan(VerdictKind.APPROX, "match", attempts=2),
        result(resumed=1, skipped=4, wasted=1, divergences=(0.3, 0.05), entry="exact", extra_evaluations=3),
    )
    assert verdict.kind is VerdictKind.APPROX
    assert (verdict.entry, verdict.evaluations) == ("exact", 8)
    assert (verdict.source_id, verdict.source_prompt) == (2, "prompt 2")
    assert verdict.similarity == pytest.approx(0.8)
    assert verdict.divergence == 0.05
    assert verdict.saved_gpu_seconds == pytest.approx(0.3)
    assert not verdict.seed_exact


def test_exchanged_noise_is_told_and_its_step_taken_off_the_saving() -> None:
    planned = plan(VerdictKind.APPROX, "match", attempts=1)
    verdict = run_verdict(planned, result(resumed=0, skipped=4, wasted=1, divergences=(0.1,), diversity=0.5))
    assert (verdict.diversity, verdict.wasted) == (0.5, 1)
    assert verdict.saved_gpu_seconds == pytest.approx(0.3)
    assert run_verdict(planned, result(wasted=1, divergences=(0.3,))).diversity == 0.0


def test_a_refused_resume_is_a_miss_that_cost_something() -> None:
    verdict = run_verdict(plan(VerdictKind.APPROX, "match", attempts=1), result(wasted=1, divergences=(0.3,)))
    assert (verdict.kind, verdict.reason) == (VerdictKind.MISS, "gate")
    assert (verdict.source_id, verdict.divergence) == (None, 0.3)
    assert verdict.saved_gpu_seconds == pytest.approx(-0.1)
    assert verdict.seed_exact


@pytest.mark.parametrize("kind", [VerdictKind.MISS, VerdictKind.BYPASS, VerdictKind.REFRESH])
def test_a_full_run_keeps_its_plans_verdict(kind: VerdictKind) -> None:
    verdict = run_verdict(plan(kind, "because"), result())
    assert (verdict.kind, verdict.reason, verdict.skipped) == (kind, "because", 0)
    assert (verdict.entry, verdict.evaluations) == (None, 8)


def test_a_gate_that_had_nothing_to_compare_reports_nothing() -> None:
    verdict = run_verdict(plan(VerdictKind.APPROX, "match", attempts=1), result(resumed=0, divergences=(math.nan,)))
    assert verdict.divergence is None


def test_states_that_could_not_be_compared_are_not_the_gates_doing() -> None:
    tried = plan(VerdictKind.APPROX, "match", attempts=2)
    verdict = run_verdict(tried, result(divergences=(math.nan, math.nan)))
    assert (verdict.kind, verdict.reason) == (VerdictKind.MISS, "state-unreadable")
    assert run_verdict(tried, result(wasted=1, divergences=(0.3, math.nan))).reason == "gate"


def test_refusals_are_paid_back_before_savings_count() -> None:
    metrics = Metrics()
    for saved, total in ((-0.3, 0.0), (0.2, 0.0), (0.5, 0.4), (-0.1, 0.4), (0.2, 0.5)):
        metrics.note_verdict(Verdict(VerdictKind.MISS, "gate", 8, saved_gpu_seconds=saved))
        counted = metrics.registry.get_sample_value("headstart_cache_saved_gpu_seconds_total")
        assert counted == pytest.approx(total)


def _picture(verdict: Verdict, *, stored: bool = False) -> Picture:
    return Picture(b"", 1, verdict, stored, 0.5, 1.0, 0.25, 2.0)


@pytest.mark.parametrize(
    ("verdict", "stored", "status"),
    [
        (Verdict(VerdictKind.EXACT, "exact", 20, skipped=20), False, 'headstart; hit; detail="exact"'),
        (
            Verdict(VerdictKind.APPROX, "match", 20, skipped=6, similarity=0.9131),
            True,
            'headstart; hit; stored; detail="approximate; sim=0.913; k=6/20"',
        ),
        (Verdict(VerdictKind.MISS, "gate", 20), True, 'headstart; fwd=miss; stored; detail="gate"'),
        (Verdict(VerdictKind.BYPASS, "cache-off", 20), False, 'headstart; fwd=bypass; detail="cache-off"'),
        (Verdict(VerdictKind.REFRESH, "no-cache", 20), True, 'headstart; fwd=request; stored; detail="no-cache"'),
    ],
)
def test_cache_status_follows_rfc_9211(verdict: Verdict, stored: bool, status: str) -> None:
    headers = headers_of([_picture(verdict, stored=stored)], 2.0)
    assert headers["Cache-Status"] == status
    assert headers["X-Headstart-Cache"] == verdict.kind.value
    assert float(headers["X-Denoise-Time"]) == 1.0


def test_several_pictures_share_one_summary() -> None:
    pictures = [_picture(Verdict(kind, "", 8)) for kind in (VerdictKind.MISS, VerdictKind.APPROX, VerdictKind.MISS)]
    headers = headers_of(pictures, 2.0)
    assert headers["Cache-Status"] == 'headstart; hit; detail="n=3; approx=1; miss=2"'
    assert headers["X-Headstart-Cache"] == "MISS, APPROX, MISS"
    assert float(headers["X-Denoise-Time"]) == 3.0
    assert cache_label(pictures) == "MIXED"
