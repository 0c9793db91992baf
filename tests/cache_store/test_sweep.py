"""The sweep of what interrupted writes left behind: once, in small steps, and never fatal."""

import asyncio

import pytest

from cache_store import CacheStore, recovery
from cache_store.types import CacheUnavailable


async def litter(store: CacheStore, count: int) -> None:
    objects = store._parts.objects
    for entry_id in range(1, count + 1):
        await objects.put(objects.state_path(entry_id, 5), b"x")


async def left(store: CacheStore) -> int:
    return sum([len(page) async for page in store._parts.objects.names()])


async def test_writers_get_their_turn_between_a_few_deletions(store: CacheStore, make, monkeypatch) -> None:
    store.remember(make.entry(1), make.states(1, 0.1), make.image)
    await store.flush()
    await litter(store, 120)
    turns: list[int] = []
    delete = store._parts.objects.delete

    async def counted(name: str) -> None:
        assert store._exclusive.locked()
        turns[-1] += 1
        await delete(name)

    class Lock(asyncio.Lock):
        async def acquire(self) -> bool:
            turns.append(0)
            return await super().acquire()

    store._exclusive = Lock()
    monkeypatch.setattr(store._parts.objects, "delete", counted)
    assert await recovery.sweep(store._parts, store._exclusive, whole=True, older_than=4e9) == 120
    assert turns == [50, 50, 20]
    assert await left(store) == 2
    assert await store.check_integrity() == []


async def test_objects_that_cannot_be_deleted_put_it_off(store: CacheStore, monkeypatch) -> None:
    await litter(store, 3)

    async def fail(name: str) -> None:
        raise OSError("away")

    monkeypatch.setattr(store._parts.objects, "delete", fail)
    with pytest.raises(CacheUnavailable):
        await recovery.sweep(store._parts, store._exclusive, whole=True, older_than=4e9)
    assert not store._exclusive.locked()


async def test_later_connections_leave_it_to_the_repair(store: CacheStore, monkeypatch) -> None:
    await store.flush()
    calls = 0

    async def count(*_: object, **__: object) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return 0

    monkeypatch.setattr(recovery, "sweep", count)
    asked: list[bool] = []
    monkeypatch.setattr(store._upkeep._caretaker, "ask", lambda: asked.append(True))
    await store._upkeep.sweep()
    assert (calls, asked) == (0, [True])
    store._upkeep._swept = ""  # the first one failed
    await asyncio.gather(store._upkeep.sweep(), store._upkeep.sweep())
    assert (calls, len(asked)) == (1, 3)
