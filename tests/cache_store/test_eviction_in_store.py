"""Budgets hold whatever the policy, and the policy decides who goes."""

import asyncio
import json
from dataclasses import replace

import pytest

from cache_store import CacheStore, eviction, upkeep
from cache_store.catalogue import PREFIX
from cache_store.config import StoreConfigError
from cache_store.states import encode_state
from cache_store.types import CacheUnavailable
from policies.eviction import POLICIES


@pytest.fixture
def state_bytes(make) -> int:
    return len(encode_state(2**50, make.state(1, 0.3)))


async def add(store: CacheStore, make, seed: int, *skips: float) -> int:
    store.remember(make.entry(seed), make.states(seed, *skips), make.image)
    await store.flush()
    (newest,) = await store.recent("anna", limit=1)
    return newest.entry_id


async def held(store: CacheStore, entry_id: int) -> list[float]:
    summary = await store.entry(entry_id, "anna")
    return [] if summary is None else [ref.skip for ref in summary.states]


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_stays_within_budget(open_store, make, state_bytes: int, policy: str) -> None:
    budget = int(state_bytes * 7.5)
    store = await open_store(eviction=policy, byte_budget=budget)
    for seed in range(1, 6):
        await add(store, make, seed)
        assert (await store.stats()).state_bytes <= budget
    stats = await store.stats()
    assert stats.states == 7
    assert stats.evictions == {policy: 18}
    assert await store.check_integrity() == []


@pytest.mark.parametrize(
    ("policy", "survivors"),
    [
        ("lcbfu", {1, 2, 3}),
        ("lfu", {1, 2, 3}),
        ("lru", {1, 4, 5}),
        ("fifo", {3, 4, 5}),
        ("sieve", {1, 2, 3}),
        ("gdsf", {1, 2, 3}),
        ("s3-fifo", {2, 3, 5}),  # one use saves nobody in the queue of newcomers, where the oldest is
        ("parsimonious", {1, 4, 5}),  # has only just been filled: as LRU
    ],
)
async def test_who_stays(open_store, make, state_bytes: int, policy: str, survivors: set[int]) -> None:
    """Five entries of one state, room for three; the first three were used, the third before the others."""
    store = await open_store(eviction=policy, byte_budget=int(state_bytes * 5.5))
    ids = {seed: await add(store, make, seed, 0.3) for seed in (1, 2, 3)}
    for seed in (3, 2, 1):
        summary = await store.entry(ids[seed], "anna")
        await store.touch(ids[seed], summary.states[0])
    ids |= {seed: await add(store, make, seed, 0.3) for seed in (4, 5)}
    await store.close()

    store = await open_store(eviction=policy, byte_budget=int(state_bytes * 3.5))
    store.remember(make.entry(6), [], make.image)  # eviction runs behind a write
    await store.flush()
    left = {seed for seed, entry_id in ids.items() if await held(store, entry_id)}
    assert left == survivors
    assert await store.check_integrity() == []


async def test_holes_and_entries_without_states(open_store, make, state_bytes: int) -> None:
    store = await open_store(byte_budget=int(state_bytes * 5.5), eviction="lcbfu")
    first = await add(store, make, 1)
    summary = await store.entry(first, "anna")
    await store.touch(first, summary.states[2])
    second = await add(store, make, 2)
    assert await held(store, first) == [0.3]
    assert len(await held(store, second)) == 4
    for seed in (3, 4):
        await add(store, make, seed)
    # The second entry lost all its states: out of the index, but its picture remains.
    assert await held(store, second) == []
    assert second not in {c.entry_id for c in await store.search(make.signature, make.vector(2))}
    assert await store.find_exact("anna-2") is not None
    assert await store.check_integrity() == []


async def test_pictures_are_evicted_least_recently_used_first(open_store, make) -> None:
    size = len(make.image.data)
    store = await open_store(image_budget=size * 2)
    first = await add(store, make, 1, 0.3)
    await add(store, make, 2, 0.3)
    await store.touch_image(first)
    await add(store, make, 3, 0.3)
    assert await store.find_exact("anna-1") is not None
    assert await store.find_exact("anna-2") is None
    stats = await store.stats()
    assert (stats.image_bytes, stats.evictions, stats.states) == (size * 2, {"image_budget": 1}, 3)
    assert await store.check_integrity() == []


async def test_nothing_left_means_forgotten(open_store, make) -> None:
    store = await open_store(image_budget=0, byte_budget=0)
    store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    stats = await store.stats()
    assert (stats.entries, stats.states, stats.partitions) == (0, 0, 0)
    assert await store.check_integrity() == []


async def test_a_state_being_loaded_is_not_evicted(open_store, make, state_bytes: int, monkeypatch) -> None:
    store = await open_store(byte_budget=int(state_bytes * 1.5), ram_bytes=0, eviction="fifo")
    entry_id = await add(store, make, 1, 0.3)
    (ref,) = (await store.entry(entry_id, "anna")).states
    objects, reading, go_on = store._parts.objects, asyncio.Event(), asyncio.Event()
    original = objects.get

    async def slow_get(path: str) -> bytes | None:
        reading.set()
        await go_on.wait()
        return await original(path)

    monkeypatch.setattr(objects, "get", slow_get)
    load = asyncio.create_task(store.load(entry_id, ref))
    await reading.wait()
    other = await add(store, make, 2, 0.3)
    assert await held(store, entry_id) == [0.3]
    assert await held(store, other) == []
    go_on.set()
    assert await load is not None
    assert len(store._parts.pins) == 0


@pytest.mark.parametrize("running", [True, False])
async def test_another_policy_on_the_same_data(open_store, make, state_bytes: int, running: bool) -> None:
    """The same store under LRU, then under LFU: the counters of before count."""
    budget = int(state_bytes * 3.5)
    store = await open_store(eviction="lru", byte_budget=budget)
    ids = {seed: await add(store, make, seed, 0.3) for seed in (1, 2, 3)}
    for seed in (1, 1, 2):
        await store.touch(ids[seed], (await store.entry(ids[seed], "anna")).states[0])
    if running:
        assert store.eviction == "lru"
        await store.switch_eviction("lfu")
    else:
        await store.close()
        store = await open_store(eviction="lfu", byte_budget=budget)
    assert store.eviction == "lfu"
    await store.touch(ids[2], (await store.entry(ids[2], "anna")).states[0])
    await store.touch(ids[2], (await store.entry(ids[2], "anna")).states[0])  # uses now: 2, 3, 0
    for seed in (4, 5):
        ids[seed] = await add(store, make, seed, 0.3)
    assert {seed for seed in ids if await held(store, ids[seed])} == {1, 2, 5}
    assert (await store.stats()).evictions == {"lfu": 2}
    assert await store.check_integrity() == []


async def test_an_unknown_policy_is_not_switched_to(open_store) -> None:
    store = await open_store(eviction="lru")
    with pytest.raises(StoreConfigError, match="unknown eviction policy 'magic'; known: fifo"):
        await store.switch_eviction("magic")
    assert store.eviction == "lru"


async def test_a_catalogue_of_before_saved_seconds_opens(open_store, make, state_bytes: int) -> None:
    """Scores of a former policy in the order, records without seconds and page: they are read, and evicted from."""
    store = await open_store(eviction="lru")
    ids = [await add(store, make, seed, 0.3) for seed in (1, 2, 3)]
    link = store._parts.link
    for score, entry_id in zip((0.9, 0.1, 0.5), ids, strict=True):
        key = f"{PREFIX}states:{entry_id}"
        for name, raw in (await link.call("HGETALL", key)).items():
            if b":" not in name:
                record = json.loads(raw)
                del record["saved_seconds"]
                await link.call("HSET", key, name, json.dumps(record))
                await link.call("ZADD", PREFIX + "order", score, record["member"])
    await store.close()
    for policy in ("gdsf", "parsimonious", "lru"):
        store = await open_store(eviction=policy, byte_budget=int(state_bytes * 2.5))
        assert len(store._parts.ranking.policy) == (await store.stats()).states
        assert await add(store, make, 9, 0.3) > 0
        assert (await store.stats()).states == 2
        assert await store.check_integrity() == []
        await store.close()


async def test_what_was_evicted_and_comes_back_is_regretted(open_store, make, state_bytes: int) -> None:
    store = await open_store(eviction="fifo", byte_budget=int(state_bytes * 1.5))
    first = await add(store, make, 1, 0.4)
    await add(store, make, 2, 0.4)  # evicts the first
    assert await held(store, first) == []
    again = replace(make.entry(3), embedding=make.vector(1), gpu_seconds=3.0, full_seconds=3.0)
    store.remember(again, make.states(3, 0.4), make.image)
    await store.flush()
    stats = await store.stats()
    assert stats.regret_requests == 1
    assert stats.regret_seconds == pytest.approx(0.4 * 1.5)  # the first took 1.5 s, and none of that was reused
    (newest,) = await store.recent("anna", limit=1)
    (record,) = [holding async for page in store._parts.catalogue.all_states() for holding in page]
    assert (record.key[0], record.item.page) == (newest.entry_id, first)
    assert record.item.saved_seconds == pytest.approx(1.2)
    assert len(store._parts.ghosts) == 1  # the second's
    await store.clear("anna")
    assert len(store._parts.ghosts) == 0


async def settled(store: CacheStore) -> None:
    late = store._upkeep._late
    if late:
        async with asyncio.timeout(20):
            await late


async def test_a_lowered_budget_is_reached_in_batches(open_store, make, state_bytes: int, monkeypatch) -> None:
    """The write that finds the store far above its budget evicts a batch; the rest goes behind other writes."""
    monkeypatch.setattr(eviction, "MOST_VICTIMS", 4)
    monkeypatch.setattr(eviction, "MOST_PICTURES", 2)
    store = await open_store()
    for seed in range(1, 7):
        await add(store, make, seed)
    await store.close()
    size = len(make.image.data)
    store = await open_store(byte_budget=int(state_bytes * 7.5), image_budget=size)
    runs, run = [], store._evictor.run

    async def counted() -> float | None:
        before = (await store.stats()).states
        wait = await run()
        runs.append(before - (await store.stats()).states)
        return wait

    monkeypatch.setattr(store._evictor, "run", counted)
    await add(store, make, 7)
    await settled(store)
    stats = await store.stats()
    assert (stats.states, stats.image_bytes) == (7, size)
    assert max(runs) == 4
    assert sum(runs) == 28
    assert await store.check_integrity() == []


async def test_late_eviction_outlives_faults(open_store, make, state_bytes: int, monkeypatch, caplog) -> None:
    monkeypatch.setattr(eviction, "MOST_VICTIMS", 2)
    monkeypatch.setattr(upkeep, "_EVICT_AGAIN_SECONDS", 0.05)
    store = await open_store()
    await add(store, make, 1)
    await store.close()
    store = await open_store(byte_budget=int(state_bytes * 1.5))
    run, faults = store._evictor.run, [RuntimeError("secret prompt"), CacheUnavailable("away"), MemoryError()]
    calls = 0

    async def failing() -> float | None:
        nonlocal calls
        calls += 1
        if calls > 1 and faults:
            raise faults.pop()
        return await run()

    monkeypatch.setattr(store._evictor, "run", failing)
    await add(store, make, 2)
    await settled(store)
    assert faults == []
    assert (await store.stats()).states == 1
    assert "late eviction failed: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_closing_ends_a_late_eviction(open_store, make, state_bytes: int, monkeypatch) -> None:
    monkeypatch.setattr(eviction, "MOST_VICTIMS", 1)
    store = await open_store(byte_budget=0)
    await add(store, make, 1)
    late = store._upkeep._late
    await store.close()
    assert late.done()
