"""A small run of `benchmarks/chaos.py`: everything goes wrong at once, and every accepted job still ends."""

import json

import pytest

from benchmarks import chaos, chaos_report
from benchmarks.chaos_faults import FAULTY_SHARE, SLACK_SECONDS, Weather, plan_of
from benchmarks.chaos_ledger import ChaosLedger, JobNote
from benchmarks.chaos_mix import KINDS, THEN, ChaosMix
from benchmarks.chaos_table import chaos_table

FAULTS = {"engine-kill": 1, "redis-kill": 1, "disk-full": 1, "disk-full+redis-kill": 1}
MIX = ChaosMix(3, ("ddim", "euler"))


@pytest.mark.timeout(1500)  # under a minute alone; a real engine starts twice, maybe beside a training run
def test_whatever_happens_every_accepted_job_ends_and_nothing_else_is_answered_than_documented() -> None:
    report = chaos.measure(300, FAULTS, quiet=True)
    told = {name: report[name] for name in ("headline", "wrong", "jobs", "livez", "grown", "log", "exit_status")}
    assert report["passed"], json.dumps(told, indent=1)
    assert sum(sum(ends.values()) for ends in report["ends"].values()) == 300
    done = {fault["kind"] for fault in report["faults"]}
    assert done == set(FAULTS) or (report["disk"].startswith("never full") and done == {"engine-kill", "redis-kill"})
    assert report["headline"]["jobs_accepted"] > 20
    assert report["headline"]["pictures_compared"] > 20
    assert report["checks"]["jobs_asked_again"] == {"same": report["headline"]["jobs_accepted"]}
    assert any("without a known end" in line for line in chaos_table(report))


def test_the_mix_holds_every_kind_and_repeats_itself() -> None:
    errands = [MIX.errand(number) for number in range(2000)]
    assert {one.shot.kind for one in errands} == set(KINDS)
    assert {one.then for one in errands} == {"", *THEN}
    assert errands[40] == MIX.errand(40) != ChaosMix(4, ("ddim", "euler")).errand(40)
    shared = [one for one in errands if one.key]
    assert 1 < len({one.key for one in shared}) < len(shared)
    assert any(one.raw for one in errands)
    assert any(one.deadline for one in errands)


def test_faults_come_at_random_and_leave_the_end_of_the_run_alone() -> None:
    plan = plan_of(300, FAULTS, 1)
    assert sorted(kind for _, kind in plan) == sorted(FAULTS)
    assert [at for at, _ in plan] == sorted(at for at, _ in plan)
    assert plan[-1][0] <= FAULTY_SHARE * 300
    assert plan != plan_of(300, FAULTS, 2)


def test_only_a_fault_excuses_an_answer_that_the_cache_is_away() -> None:
    ledger = ChaosLedger(Weather([(10.0, 20.0)]))
    ledger.unavailable("look", "cache_unavailable", 9.0, 10.5)
    ledger.unavailable("look", "cache_unavailable", 20.0 + SLACK_SECONDS / 2, 30.0)
    assert ledger.wrong == []
    ledger.unavailable("look", "cache_unavailable", 30.0, 31.0)
    ledger.unavailable("look", "internal_error", 12.0, 13.0)
    assert len(ledger.wrong) == 2


@pytest.mark.parametrize(
    ("then", "deadline", "end", "code", "right"),
    [
        ("poll", False, "succeeded", "", True),
        ("poll", False, "", "", False),
        ("poll", False, "cancelled", "", False),
        ("cancel", False, "cancelled", "", True),
        ("delete", False, "deleted", "", True),
        ("events", False, "deleted", "", False),
        ("poll", False, "failed", "deadline_exceeded", False),
        ("poll", True, "failed", "deadline_exceeded", True),
        ("poll", True, "failed", "overloaded", True),
        ("poll", False, "failed", "overloaded", False),
        ("poll", False, "failed", "engine_lost", True),
        ("poll", False, "failed", "interrupted", False),
        ("poll", False, "failed", "internal_error", False),
    ],
)
def test_how_a_job_may_end(then: str, deadline: bool, end: str, code: str, right: bool) -> None:
    ledger = ChaosLedger(Weather())
    ledger.jobs["a"] = JobNote(then, 1, {}, deadline, end, code)
    ledger.judge()
    assert (ledger.wrong == []) == right


def test_a_repeat_has_to_be_what_was_stored() -> None:
    ledger = ChaosLedger(Weather())
    ledger.keyed("k", "stored", b"one")
    ledger.keyed("k", "replayed", b"one")
    ledger.keyed("k", "unavailable", b"two")
    ledger.judge()
    assert ledger.wrong == []
    ledger.keyed("k", "replayed", b"two")
    ledger.judge()
    assert len(ledger.wrong) == 1


def test_growth_has_bounds() -> None:
    start = {"descriptors": 30, "rss_kb": 600_000}
    assert chaos_report.bounded(start, {"descriptors": 90, "rss_kb": 640_000})
    assert not chaos_report.bounded(start, {"descriptors": 300, "rss_kb": 640_000})
    assert not chaos_report.bounded(start, {"descriptors": 30, "rss_kb": 900_000})
    assert not chaos_report.bounded(start, None)
