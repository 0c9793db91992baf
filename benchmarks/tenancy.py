"""Does anything cross from one tenant to another, and what do the known attacks on approximate caches achieve?"""

import asyncio
import random
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.tenancy_attacks import SETTINGS, Bench, Setting, covert_channel, pinning, poisoning, prompt_pairs
from benchmarks.tenancy_attacks import stealing as steal
from benchmarks.tenancy_timing import ALPHA, lookups
from benchmarks.tenancy_world import World
from cache_store import CacheStore, StoreConfig
from cache_store.sharing import SharingRules
from policies.matching import ThresholdTable, make_matching
from service.embedder import Embedder
from service.settings import DEFAULT_MODEL

OPERATIONS, QUICK_OPERATIONS = 100_000, 10_000
SIZES = {"bits": 200, "victims": 40, "probes": 12, "texts": 80, "planted": 8, "honest": 60, "rounds": 4000}
QUICK_SIZES = {"bits": 40, "victims": 8, "probes": 8, "texts": 20, "planted": 4, "honest": 30, "rounds": 600}
# As if every attacker had waited for the quarantine to end.
RULES = SharingRules(quarantine_seconds=0.0, witnesses=1)
# Enough that the bound on what one tenant may publish never binds.
CROWD_PER_BIT = 2
PINNED_BYTES = 120_000


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report."""
    return asyncio.run(measure(QUICK_OPERATIONS if quick else OPERATIONS, QUICK_SIZES if quick else SIZES, quiet))


async def measure(operations: int, sizes: dict[str, int], quiet: bool) -> dict[str, Any]:
    """Return the report of so many random operations and attacks of these sizes."""
    isolation = await isolate(operations, quiet=quiet)
    embedder = Embedder()
    await embedder.start()
    try:
        attacks = [await attack(setting, embedder, sizes) for setting in SETTINGS]
    finally:
        await embedder.close()
    before, apart, shared, two = attacks
    return {
        "headline": {
            "operations": isolation["operations"],
            "leaks": isolation["leaks"],
            "covert_accuracy_before": before["covert_channel"]["accuracy"],
            "covert_accuracy_after": max(one["covert_channel"]["accuracy"] for one in (apart, shared)),
            "stealing_before": before["stealing"]["success"],
            "stealing_after": max(one["stealing"]["success"] for one in (apart, shared)),
            "poisoning_before": before["poisoning"]["success"],
            "poisoning_after": max(one["poisoning"]["success"] for one in (apart, shared)),
            "covert_accuracy_holding_two": two["covert_channel"]["accuracy"],
            "covert_ones_read_holding_two": two["covert_channel"]["ones_read"],
            "covert_accuracy_holding_two_in_a_crowd": two["covert_channel_in_a_crowd"]["accuracy"],
            "timing_told_apart": apart["timing"]["told_apart"],
        },
        "isolation": isolation,
        "attacks": [before, apart, shared, two],
        "alpha": ALPHA,
    }


async def isolate(operations: int, *, quiet: bool, seed: int = 1) -> dict[str, Any]:
    """Return what so many random operations of random tenants leaked."""
    async with opened() as store:
        world = World(store, random.Random(seed))
        with tqdm(total=operations, disable=quiet) as bar:
            async for done in world.rounds(operations):
                bar.update(done)
        return world.report() | {"disagreements": len(await store.check_integrity())}


async def attack(setting: Setting, embedder: Embedder, sizes: dict[str, int]) -> dict[str, Any]:
    """Return what every attack achieves in a setting."""
    table = ThresholdTable.load(DEFAULT_MODEL / "matching.json")
    pairs = prompt_pairs(DEFAULT_MODEL / "matching_pairs.jsonl")

    async def fresh(work: Callable[[Bench], Awaitable[dict[str, Any]]], **changes: Any) -> dict[str, Any]:
        async with opened(**changes) as store:
            return await work(Bench(store, embedder, make_matching("gated", table), pairs))

    bits, crowd = sizes["bits"], CROWD_PER_BIT * sizes["bits"] if setting.own_witness else 0
    return {
        "setting": setting.name,
        "covert_channel": await fresh(lambda bench: covert_channel(bench, setting, bits)),
        "covert_channel_in_a_crowd": await fresh(lambda bench: covert_channel(bench, setting, bits, crowd=crowd))
        if crowd
        else None,
        "stealing": await fresh(lambda bench: steal(bench, setting, sizes["victims"], sizes["probes"])),
        "poisoning": await fresh(lambda bench: poisoning(bench, setting, sizes["texts"])),
        "pinning": await fresh(
            lambda bench: pinning(bench, setting, sizes["planted"], sizes["honest"]), byte_budget=PINNED_BYTES
        ),
        "timing": await fresh(lambda bench: lookups(bench, setting, sizes["rounds"])),
    }


@asynccontextmanager
async def opened(**changes: Any) -> AsyncGenerator[CacheStore, None]:
    """A store of its own in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="headstart-tenancy-") as folder:
        store = await CacheStore.open(StoreConfig(Path(folder), timeout_seconds=30.0, sharing=RULES, **changes))
        try:
            yield store
        finally:
            await store.close()
