"""An entry past its time is never returned, is soon gone, and no jump of a clock takes the others along."""

import time
from pathlib import Path

import pytest
from store_nouns import until

from cache_store import CacheStore, StoreConfig, StoreConfigError
from cache_store.catalogue import PREFIX
from cache_store.expiry import CatalogueClock, Lifetimes

TTL = 1000.0


async def remember(store: CacheStore, make, *seeds: int) -> None:
    for seed in seeds:
        assert store.remember(make.entry(seed), make.states(seed), make.image)
    await store.flush()


async def jump(store: CacheStore, seconds: float) -> None:
    """Move the catalogue's time as a jump of the Redis host's clock would."""
    offset = float(await store._link.call("GET", PREFIX + "clock:offset") or 0)
    await store._link.call("SET", PREFIX + "clock:offset", f"{offset + seconds:.6f}")


async def age(store: CacheStore, entry_id: int, seconds: float) -> None:
    """Make an entry older."""
    born = float(await store._link.call("HGET", f"{PREFIX}entry:{entry_id}", "born")) - seconds
    await store._link.call("HSET", f"{PREFIX}entry:{entry_id}", "born", f"{born:.6f}")
    await store._link.call("ZADD", PREFIX + "entries", f"{born:.6f}", entry_id)


async def resting(open_store, **changes: object) -> CacheStore:
    """Open a store whose collector only runs when told to."""
    store = await open_store(ttl_seconds=TTL, **changes)
    await store._upkeep._collector.close()
    return store


async def clock_is_right(store: CacheStore) -> bool:
    now, _ = await store._parts.catalogue.time()
    return abs(now - time.time()) < 5.0


async def test_past_its_time_it_is_never_returned(open_store, make) -> None:
    store = await resting(open_store)
    await remember(store, make, 1, 2)
    (old, young) = await store.search(make.signature, make.vector(1))
    assert await store.load(old.entry_id, old.states[0]) is not None
    summary = await store.entry(old.entry_id, "anna")
    assert summary.expires == pytest.approx(time.time() + TTL, abs=30)
    await age(store, old.entry_id, TTL)
    store._lifetimes = Lifetimes()

    assert await store.find_exact("anna-1") is None
    assert [found.entry_id for found in await store.search(make.signature, make.vector(1))] == [young.entry_id]
    assert await store.load(old.entry_id, old.states[0]) is None  # although it is in memory
    assert await store.entry(old.entry_id, "anna") is None
    assert await store.image(old.entry_id, "anna") is None
    assert [summary.entry_id for summary in await store.recent("anna")] == [young.entry_id]
    assert (await store.stats()).entries == 2


async def test_a_state_found_in_time_is_not_loaded_after_it(open_store, make, monkeypatch) -> None:
    store = await resting(open_store)
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))
    now = time.monotonic() + TTL + 1
    monkeypatch.setattr("cache_store.expiry.steady", lambda: now)
    assert store._lifetimes.alive(found.entry_id) is False
    assert await store.load(found.entry_id, found.states[0]) is None


async def test_the_collector_forgets_it_everywhere(open_store, make, tmp_path: Path) -> None:
    store = await resting(open_store)
    await remember(store, make, 1, 2)
    (old, young) = await store.search(make.signature, make.vector(1))
    await age(store, old.entry_id, TTL)
    assert await store._upkeep._collector.collect() == 1
    assert old.entry_id not in store._parts.index
    assert {key[0] for key in store._parts.ram.keys()} == {young.entry_id}  # noqa: SIM118
    assert not list((tmp_path / "data" / "objects").rglob(f"{old.entry_id:016x}*"))
    stats = await store.stats()
    assert (stats.entries, stats.evictions) == (1, {"expired": 6})
    assert await store.check_integrity() == []


async def test_it_happens_by_itself_and_after_a_restart(open_store, make) -> None:
    store = await open_store()
    await remember(store, make, 1)
    await store.close()
    store = await open_store(ttl_seconds=0.1)
    assert await store.find_exact("anna-1") is None

    async def gone() -> bool:
        return (await store.stats()).entries == 0

    await until(gone)
    assert await store.check_integrity() == []


async def test_batches_are_bounded(open_store, make, monkeypatch) -> None:
    monkeypatch.setattr("cache_store.expiry._BATCH", 2)
    store = await resting(open_store)
    await remember(store, make, 1, 2, 3)
    for summary in await store.recent("anna"):
        await age(store, summary.entry_id, TTL)
    assert [await store._upkeep._collector.collect() for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("seconds", [10 * TTL, -10 * TTL])
async def test_a_jump_of_the_clock_is_taken_back(open_store, make, seconds: float) -> None:
    store = await resting(open_store)
    collector = store._upkeep._collector
    await remember(store, make, 1, 2)
    (old, young) = await store.search(make.signature, make.vector(1))
    await collector.collect()
    await jump(store, seconds)
    await remember(store, make, 3)
    assert await collector.collect() == 0
    assert await clock_is_right(store)
    assert await collector.collect() == 0 or seconds < 0
    assert await store.find_exact("anna-1") is not None
    assert {c.entry_id for c in await store.search(make.signature, make.vector(1))} >= {old.entry_id, young.entry_id}
    await age(store, old.entry_id, TTL)
    assert await collector.collect() >= 1
    assert await store.find_exact("anna-1") is None
    assert await store.find_exact("anna-2") is not None


async def test_two_services_take_a_jump_back_once(open_store, make, tmp_path: Path) -> None:
    host = await resting(open_store)
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    stores = [await resting(open_store, data_dir=tmp_path / name, **shared) for name in ("one", "two")]
    clocks = [CatalogueClock(store._parts) for store in stores]
    for clock in clocks:
        assert await clock.watch() == 0
    await jump(host, 5000.0)
    jumps = [await clock.watch() for clock in clocks]
    assert jumps == [pytest.approx(5000.0, abs=1.0), 0]
    assert await clock_is_right(host)
    assert [await clock.watch() for clock in clocks] == [0, 0]


async def test_time_nobody_watched_counts(open_store, make) -> None:
    store = await resting(open_store)
    await remember(store, make, 1)
    await store._upkeep._collector.collect()
    store._upkeep.clock.restart()  # as after a reconnection
    await jump(store, TTL)
    assert await store._upkeep._collector.collect() == 1


async def test_entries_of_before_lifetimes_have_one(open_store, make) -> None:
    store = await resting(open_store)
    await remember(store, make, 1)
    ((entry_id,),) = [[summary.entry_id for summary in await store.recent("anna")]]
    key = f"{PREFIX}entry:{entry_id}"
    await store._link.call("HDEL", key, "born", "superseded", "user")
    assert await store.find_exact("anna-1") is not None
    assert await store.check_integrity() == []
    created = float(await store._link.call("HGET", key, "created"))
    await store._link.call("HSET", key, "created", repr(created - TTL))
    assert await store.find_exact("anna-1") is None


def test_lifetimes_are_bounded() -> None:
    lifetimes = Lifetimes(size=2)
    for entry_id in (1, 2, 3):
        lifetimes.note(entry_id, 10.0)
    lifetimes.note(2, -1.0)
    assert [lifetimes.alive(entry_id) for entry_id in (1, 2, 3)] == [None, False, True]


@pytest.mark.parametrize("change", [{"ttl_seconds": -1.0}, {"ttl_seconds": float("inf")}, {"lease_seconds": 61.0}])
def test_bad_times_are_refused(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(StoreConfigError, match="seconds"):
        StoreConfig(tmp_path, **change).check()
