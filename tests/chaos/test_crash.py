"""A few rounds of `benchmarks/crash.py`: whatever is killed, nothing wrong is served and nothing fails."""

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest

from benchmarks import crash, crash_load, crash_service, crash_world
from benchmarks.crash_load import Ledger, Wish
from benchmarks.crash_store import Round, run_rounds
from benchmarks.crash_table import crash_table
from service.pictures import encode


def test_a_killed_store_loses_nothing_it_claims_to_have(tmp_path: Path) -> None:
    rounds, seen = run_rounds(tmp_path, 4, seed=2)
    assert {one.kind for one in rounds} == {"store", "redis"}
    assert [one.problems for one in rounds] == [()] * 4
    assert all(one.loaded > 0 for one in rounds)
    assert seen["loads"] > 0
    bad = {name: seen.get(name, 0) for name in ("wrong", "failed", "missing_at_rest")}
    assert bad == {"wrong": 0, "failed": 0, "missing_at_rest": 0}, seen["errors"]


@pytest.mark.timeout(900)  # a real engine starts twice, maybe beside a training run
def test_a_killed_service_answers_rightly_or_not_at_all(tmp_path: Path, resuming_model: Path) -> None:
    settings = {"model": str(resuming_model)}
    work = crash_service.run_rounds(tmp_path, 2, 3, settings=settings, kinds=("redis", "service"))
    rounds, ledger, status = asyncio.run(work)
    assert [one.problems for one in rounds] == [(), ()]
    assert (ledger.wrong, ledger.failed, status) == ([], [], 0)
    assert sum(ledger.verdicts.values()) > 0


def test_a_state_of_another_prompt_or_level_is_recognised() -> None:
    first, second = crash_world.states(3)[:2]
    assert crash_world.is_right(3, first)
    assert not crash_world.is_right(4, first)
    swapped = type(first)(second.latent, first.log_snr, first.timestep, first.skip, first.prediction)
    assert not crash_world.is_right(3, swapped)


def _item(verdict: str, seed: int, level: int, source: tuple[str, str] | None = None) -> dict[str, object]:
    data = base64.b64encode(encode(np.full((8, 8, 3), level, dtype=np.uint8))).decode()
    named = None if source is None else {"id": source[0], "prompt": source[1]}
    return {"b64_json": data, "seed": seed, "cache": {"verdict": verdict, "source": named}}


def _ledger() -> Ledger:
    ledger = Ledger()
    for prompt in ("a cube", "a ball"):
        ledger.sending(Wish("new", prompt, None))
    ledger.answer(Wish("new", "a cube", 1), _item("MISS", 1, 50))
    return ledger


@pytest.mark.parametrize(
    ("prompt", "item", "wrong"),
    [
        ("a cube", _item("EXACT", 1, 50, ("1", "a cube")), 0),
        ("a cube", _item("EXACT", 1, 52, ("1", "a cube")), 0),
        ("a cube", _item("EXACT", 1, 90, ("1", "a cube")), 1),
        ("a ball", _item("EXACT", 1, 50, ("1", "a cube")), 1),
        ("a ball", _item("APPROX", 1, 50, ("1", "a cube")), 0),
        ("a ball", _item("APPROX", 1, 50, ("1", "a cat")), 1),
    ],
)
def test_wrong_answers_are_recognised(prompt: str, item: dict[str, object], wrong: int) -> None:
    ledger = _ledger()
    ledger.answer(Wish("repeat", prompt, 1), item)
    assert len(ledger.wrong) == wrong


def test_an_entry_that_changes_its_meaning_is_recognised() -> None:
    ledger = _ledger()
    ledger.entry({"id": "7", "prompt": "a cube"})
    ledger.answer(Wish("reword", "a ball", 1), _item("APPROX", 1, 50, ("7", "a ball")))
    assert ledger.wrong == ["entry 7 has changed its meaning"]


def test_only_the_death_of_the_service_excuses_a_lost_request() -> None:
    ledger = Ledger(dead=[(10.0, 20.0)])
    ledger.failure(9.0, 10.5, "connection: ReadError")
    ledger.failure(15.0, 15.1, "connection: ConnectError")
    ledger.failure(21.0, 22.0, "connection: ReadError")
    ledger.failure(9.0, 10.5, "status 500")
    assert (ledger.lost, len(ledger.failed)) == (2, 2)


def test_the_report_sums_up() -> None:
    rounds = [Round("store", "redis", 0.5, ()), Round("service", "engine", 9.0, ("object x is missing",), found=2)]
    ledger = _ledger()
    report = crash.report(rounds, {"loads": 5, "errors": []}, ledger, 0, "")
    assert report["headline"] == {
        "rounds": 2,
        "wrong_states": 0,
        "failed_requests": 0,
        "integrity_problems_after_repair": 1,
        "worst_recovery_seconds": 9.0,
    }
    assert not report["passed"]
    assert any("2 → 1" in line for line in crash_table(report))


def test_the_mix_repeats_itself_and_moves_on() -> None:
    wishes = [crash_load.wish(1, number) for number in range(400)]
    assert {one.kind for one in wishes} == set(crash_load.KINDS)
    assert len({one.prompt for one in wishes}) < 300
    assert wishes[17] == crash_load.wish(1, 17)
