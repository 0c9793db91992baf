"""What follows the catalogue's events misses none, learns on through a reconnection, and survives its faults."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_replica import (
    answers,
    came_back,
    catch_up,
    index_agrees,
    lose_what_is_written_from_now_on,
    prevent_following,
    remember,
    until,
)

from cache_store import CacheStore
from cache_store.states import encode_state


async def use(store: CacheStore, entry_id: int) -> None:
    await store.touch(entry_id, (await store.entry(entry_id, "anna")).states[0])


async def ids_of(store: CacheStore) -> list[int]:
    """Oldest first."""
    return [summary.entry_id for summary in reversed(await store.recent("anna"))]


async def ranked(store: CacheStore) -> set[tuple[int, int]]:
    stored = {holding.key async for page in store._parts.catalogue.all_states() for holding in page}
    policy = store._parts.ranking.policy
    assert len(policy) == len(stored)
    return {key for key in stored if key in policy}


async def test_no_use_is_lost_while_the_policy_is_switched(open_store, make, monkeypatch) -> None:
    store = await open_store(eviction="lru")
    for seed in (1, 2):
        store.remember(make.entry(seed), make.states(seed, 0.3), make.image)
    await store.flush()
    first, second = await ids_of(store)
    catalogue, scanned, go_on = store._parts.catalogue, asyncio.Event(), asyncio.Event()
    original = catalogue.all_states

    async def slow_scan() -> AsyncIterator[list]:
        async for page in original():
            yield page
        scanned.set()
        await go_on.wait()

    monkeypatch.setattr(catalogue, "all_states", slow_scan)
    switching = asyncio.create_task(store.switch_eviction("lfu"))
    await scanned.wait()
    await use(store, first)
    following = asyncio.create_task(store._follower.catch_up_all())
    await asyncio.sleep(0.3)
    go_on.set()
    await asyncio.gather(switching, following)
    await catch_up(store)
    assert store._parts.ranking.policy.victim()[0] == second


async def test_what_the_policy_has_learned_outlives_a_reconnection(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    one = await open_store(data_dir=tmp_path / "one", **shared)
    two = await open_store(data_dir=tmp_path / "two", **shared, eviction="lfu")
    await remember(one, make, 1, 2, 3)
    await catch_up(two)
    prevent_following(two)
    policy, ghosts = two._parts.ranking.policy, two._parts.ghosts
    await remember(one, make, 4)
    first, second, *_ = await ids_of(one)
    await use(one, first)
    await one._remover.clear_entry(second, "lru")
    ghosts._ghosts[1] = ghosts._members  # some
    two._link.renew("a disconnect")
    await until(lambda: answers(two))
    assert two._replica.source == "held"
    assert two._parts.ranking.policy is policy
    assert len(await ranked(two)) == 15
    assert len(ghosts) == 1
    await one.clear("anna")
    two._link.renew("a disconnect")
    await until(lambda: answers(two))
    assert two._parts.ranking.policy is policy
    assert await ranked(two) == set()
    assert len(ghosts) == 0


@pytest.mark.parametrize("followed", [True, False])
async def test_an_eviction_that_a_crash_undid_is_undone_in_the_policy(open_store, make, followed: bool) -> None:
    budget = int(len(encode_state(2**50, make.state(1, 0.3))) * 5.5)
    store = await open_store(eviction="fifo", byte_budget=budget)
    await remember(store, make, 1)
    await catch_up(store)
    before = await ranked(store)
    lose_what_is_written_from_now_on(store)
    if not followed:
        prevent_following(store)
    await remember(store, make, 2)
    if followed:
        await catch_up(store)
    assert store._parts.ranking._unconfirmed or followed
    await came_back(store)
    assert store._replica.source == ("catalogue" if followed else "held")
    assert await ranked(store) == before
    assert not store._parts.ranking._unconfirmed
    await index_agrees(store)


async def test_a_refused_write_is_no_lost_connection(store: CacheStore, make, monkeypatch) -> None:
    await remember(store, make, 1)
    catalogue, link = store._parts.catalogue, store._parts.link
    commit = catalogue.commit

    async def without_memory(*arguments) -> bool:
        await link.call("CONFIG", "SET", "maxmemory", 1)
        try:
            return await commit(*arguments)
        finally:
            await link.call("CONFIG", "SET", "maxmemory", 0)

    monkeypatch.setattr(catalogue, "commit", without_memory)
    assert store.remember(make.entry(2), make.states(2), make.image)
    await store.flush()
    assert link.available
    assert (await store.stats()).dropped_writes == 1
    monkeypatch.undo()
    await remember(store, make, 3)
    assert len(await ids_of(store)) == 2


@pytest.mark.parametrize("fault", [RuntimeError, MemoryError, ValueError])
async def test_following_outlives_any_fault(store: CacheStore, make, monkeypatch, caplog, fault) -> None:
    replica, faults = store._replica, []

    async def fail(*_: object) -> None:
        faults.append(fault)
        raise fault("secret prompt")

    monkeypatch.setattr(replica, "apply", fail)
    monkeypatch.setattr(replica, "tend", fail)
    assert store.remember(make.entry(1), make.states(1), make.image)

    async def failed() -> bool:
        return len(faults) >= 3

    await until(failed)
    monkeypatch.undo()

    async def followed() -> bool:
        return (await store.stats()).index_lag_events == 0

    await until(followed)
    assert not any(task.done() for task in store._follower._tasks)
    assert f"following failed: {fault.__name__}" in caplog.text
    assert "secret" not in caplog.text


async def test_the_lag_counts_from_when_the_follower_was_last_in_step(store: CacheStore, make) -> None:
    await asyncio.sleep(3.0)
    prevent_following(store)
    await remember(store, make, 1)
    stats = await store.stats()
    assert stats.index_lag_events > 0
    assert 0 < stats.index_lag_seconds < 2.5
