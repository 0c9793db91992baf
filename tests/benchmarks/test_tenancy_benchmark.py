"""The attacks on approximate caches, as regressions: what they achieve in one cache for all, and across tenants."""

import asyncio
from typing import Any

import numpy as np
import pytest

from benchmarks import tenancy
from benchmarks.tenancy_attacks import SETTINGS, Bench, covert_channel, prompt_pairs
from benchmarks.tenancy_table import tenancy_table
from benchmarks.tenancy_timing import _compared
from cache_store.sharing import FREE_ENTRIES
from policies.matching import ThresholdTable, make_matching
from service.embedder import Embedder
from service.settings import DEFAULT_MODEL

SIZES = {"bits": 16, "victims": 4, "probes": 6, "texts": 8, "planted": 3, "honest": 24, "rounds": 120}
APART = {setting.name: number for number, setting in enumerate(SETTINGS)}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return asyncio.run(tenancy.measure(1000, SIZES, quiet=True))


def test_random_operations_leak_nothing_though_there_is_something_to_leak(report: dict[str, Any]) -> None:
    isolation = report["isolation"]
    assert isolation["operations"] == sum(isolation["by_kind"].values()) == 1000
    assert (isolation["leaks"], isolation["leaks_by_kind"], isolation["disagreements"]) == (0, {}, 0)
    assert isolation["own_hits"] > 0
    assert isolation["hits_across_tenants_as_the_rules_allow"] > 0


@pytest.mark.parametrize("setting", ["tenants", "tenants that share"])
def test_attacks_work_in_one_cache_and_fail_across_tenants(report: dict[str, Any], setting: str) -> None:
    before, after = report["attacks"][0], report["attacks"][APART[setting]]
    assert before["covert_channel"]["accuracy"] == 1.0
    assert before["poisoning"]["success"] > 0.5
    assert before["pinning"]["surviving"] == 1.0
    # No bit comes through, so what is read is always the same: right as often as the sender sent that.
    assert after["covert_channel"]["accuracy"] < 0.9
    assert after["poisoning"]["success"] == 0.0
    assert after["stealing"]["cosine"] < before["stealing"]["cosine"]


def test_an_attacker_with_two_tenants_is_its_own_witness(report: dict[str, Any]) -> None:
    two = report["attacks"][APART["tenants that share, attacker holds two"]]
    assert two["covert_channel"]["accuracy"] == 1.0
    assert two["covert_channel"]["ones_read"] == two["covert_channel"]["ones"] <= FREE_ENTRIES
    assert two["covert_channel_in_a_crowd"]["accuracy"] == 1.0


def test_their_channel_ends_at_what_one_tenant_may_publish() -> None:
    channel = asyncio.run(_channel_of_two(100))
    assert channel["ones_read"] == channel["ones_read_before_the_first_lost"] == FREE_ENTRIES < channel["ones"]
    assert channel["accuracy"] == (channel["bits"] - channel["ones"] + FREE_ENTRIES) / channel["bits"]


async def _channel_of_two(bits: int) -> dict[str, Any]:
    embedder = Embedder()
    await embedder.start()
    try:
        async with tenancy.opened() as store:
            table = ThresholdTable.load(DEFAULT_MODEL / "matching.json")
            pairs = prompt_pairs(DEFAULT_MODEL / "matching_pairs.jsonl")
            bench = Bench(store, embedder, make_matching("gated", table), pairs)
            return await covert_channel(bench, SETTINGS[3], bits)
    finally:
        await embedder.close()


def test_using_one_s_own_public_entries_buys_them_nothing(report: dict[str, Any]) -> None:
    before, shared = report["attacks"][0]["pinning"], report["attacks"][APART["tenants that share"]]["pinning"]
    assert shared["surviving"] < before["surviving"]


def test_the_tests_of_timing_tell_apart_what_differs_and_nothing_else() -> None:
    dice = np.random.default_rng(1)
    same = [dice.gamma(9, 1e-4, 2000) for _ in range(2)]
    assert not _compared(*same)["told_apart"]
    slower = _compared(same[0], same[1] * 1.15)
    assert slower["told_apart"]
    assert 0.55 < slower["guessed_right"] < 1


def test_the_table_says_what_the_report_says(report: dict[str, Any]) -> None:
    lines = tenancy_table(report)
    assert "**0 leaks**" in lines[0]
    assert [line for line in lines if line.startswith("| one cache for all | 100% ")]
