"""What a search returned is still there when it is loaded, in every service; for a moment, not for ever."""

import asyncio
import time
from pathlib import Path

import pytest
from store_nouns import until

from cache_store import CacheStore
from cache_store.catalogue import PREFIX
from cache_store.parts import Pins
from cache_store.states import encode_state


@pytest.fixture
def state_bytes(make) -> int:
    return len(encode_state(2**50, make.state(1, 0.3)))


async def remember(store: CacheStore, make, seed: int, *skips: float) -> None:
    store.remember(make.entry(seed), make.states(seed, *skips), make.image)
    await store.flush()


async def found_by(store: CacheStore, make, seed: int):
    (best, *_) = await store.search(make.signature, make.vector(seed))
    assert best.prompt == f"secret prompt {seed}"
    return best


async def within_budget(store: CacheStore, budget: int) -> None:
    async def reached() -> bool:
        return (await store.stats()).state_bytes <= budget

    await until(reached)


async def test_found_is_kept_until_it_is_loaded(open_store, make, state_bytes: int) -> None:
    budget = int(state_bytes * 2.5)
    store = await open_store(byte_budget=budget, eviction="fifo", ram_bytes=0, lease_seconds=60)
    await remember(store, make, 1, 0.3)
    first = await found_by(store, make, 1)
    for seed in (2, 3, 4):
        await remember(store, make, seed, 0.3)
    assert await store.load(first.entry_id, first.states[0]) is not None
    await remember(store, make, 5, 0.3)
    assert await store.load(first.entry_id, first.states[0]) is None
    assert (await store.stats()).state_bytes <= budget
    await store.flush()
    assert await store.check_integrity() == []


async def test_a_lease_nobody_comes_back_for_ends(open_store, make, state_bytes: int) -> None:
    budget = int(state_bytes * 0.5)
    store = await open_store(byte_budget=int(state_bytes * 5.5), eviction="fifo", lease_seconds=0.5)
    await remember(store, make, 1)
    await store.close()
    store = await open_store(byte_budget=budget, eviction="fifo", lease_seconds=0.5)
    await found_by(store, make, 1)
    await remember(store, make, 2)
    assert (await store.stats()).state_bytes > budget
    await within_budget(store, budget)  # without another write
    assert await store.check_integrity() == []


async def test_another_service_leaves_leased_ones_alone(open_store, make, state_bytes: int, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    small = {"byte_budget": int(state_bytes * 1.5), "eviction": "fifo", "ram_bytes": 0}
    reader = await open_store(data_dir=tmp_path / "one", lease_seconds=2.0, ram_bytes=0, **shared)
    writer = await open_store(data_dir=tmp_path / "two", lease_seconds=2.0, **shared, **small)
    await remember(reader, make, 1, 0.3)
    first = await found_by(reader, make, 1)
    assert await host._link.call("ZCARD", PREFIX + "leases") == 1
    await remember(writer, make, 2, 0.3)
    assert await reader.load(first.entry_id, first.states[0]) is not None
    await within_budget(writer, int(state_bytes * 1.5))
    await host._parts.catalogue.time()
    await asyncio.sleep(2.0)
    await host._parts.catalogue.time()
    assert await host._link.call("ZCARD", PREFIX + "leases") == 0


async def test_leases_stop_evictions_only(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    store = await open_store(data_dir=tmp_path / "one", lease_seconds=60, **shared)
    await remember(store, make, 1, 0.1, 0.3)
    first = await found_by(store, make, 1)
    key = (first.entry_id, round(first.states[0].log_snr * 1000))
    assert not await store._remover.drop_state(key, "fifo", evict=True)
    assert await store._remover.drop_state(key, "corrupt")
    assert await store.clear("anna") == 1
    assert await host._link.call("ZCARD", PREFIX + "leases") == 0


async def test_a_lease_from_before_the_clock_was_set_back_is_not_believed(open_store, make) -> None:
    store = await open_store()
    await remember(store, make, 1, 0.3)
    (summary,) = await store.recent("anna")
    await store._link.call("ZADD", PREFIX + "leases", time.time() + 3600, summary.entry_id)
    key = (summary.entry_id, round(summary.states[0].log_snr * 1000))
    assert await store._remover.drop_state(key, "fifo", evict=True)


async def test_a_private_catalogue_has_no_leases_in_redis(store: CacheStore, make) -> None:
    await remember(store, make, 1, 0.3)
    await found_by(store, make, 1)
    assert await store._link.call("EXISTS", PREFIX + "leases") == 0
    assert len(store._parts.pins) == 1


def test_leases_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("cache_store.parts.time.monotonic", lambda: now)
    pins = Pins()
    pins.lease([(1, 1)], 2.0)
    pins.lease([(1, 1), (2, 2)], 1.0)
    pins.release((1, 1))
    assert (1, 1) in pins  # the other search has not loaded it yet
    pins.release((1, 1))
    assert (1, 1) not in pins
    assert pins.leased_seconds == pytest.approx(1.0)
    with pins.hold((3, 3)):
        assert len(pins) == 2
        now = 101.5
        assert [(2, 2) in pins, (3, 3) in pins, len(pins), pins.leased_seconds] == [False, True, 1, 0]
    pins.release((9, 9))
    assert len(pins) == 0
