"""The index as a replica: from a snapshot, by events, and never with a history that did not happen."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from store_nouns import append_only_file

from cache_store import CacheStore
from cache_store.events import HistoryLost, Mark
from cache_store.types import CacheUnavailable


async def until(condition, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def remember(store: CacheStore, make, *seeds: int) -> None:
    for seed in seeds:
        assert store.remember(make.entry(seed), make.states(seed), make.image)
    await store.flush()


async def catch_up(store: CacheStore) -> None:
    while await store._follower.catch_up():
        pass


async def indexed(store: CacheStore, make) -> set[int]:
    return await store._parts.thread.run(store._parts.index.ids, make.signature.digest)


async def index_agrees(store: CacheStore) -> None:
    """Catalogue and index agree; after a crash of the whole machine, objects may not (the sweep's business)."""
    assert [line for line in await store.check_integrity() if "index" in line] == []


async def nothing() -> None:
    """Instead of catching up."""


def prevent_following(store: CacheStore) -> None:
    for task in store._follower._tasks:
        task.cancel()
    store._follower.catch_up_all = nothing


async def came_back(store: CacheStore, *, kill: bool = True) -> None:
    """Kill the store's Redis and wait until the store has prepared itself anew."""
    server = store._server
    restarts = server.restarts
    if kill:
        os.kill(server.pid, signal.SIGKILL)

    async def restarted() -> bool:
        return server.restarts > restarts and store._link.available and await answers(store)

    await until(restarted)


async def answers(store: CacheStore) -> bool:
    with contextlib.suppress(CacheUnavailable):
        await store.recent("anna")
        return store._replica.source != ""
    return False


def lose_what_is_written_from_now_on(store: CacheStore) -> None:
    """Make the next crash of Redis one of the whole machine: what the disk has not got yet is lost."""
    server = store._server
    log = append_only_file(store._config.data_dir)
    size, spawn = log.stat().st_size, server._spawn

    def cut_and_spawn() -> None:
        os.truncate(log, size)
        server._spawn = spawn
        spawn()

    server._spawn = cut_and_spawn


async def test_a_start_reads_the_snapshot_and_catches_up(open_store, make, tmp_path: Path) -> None:
    store = await open_store()
    await remember(store, make, 1, 2, 3)
    await store.close()
    snapshot = tmp_path / "data" / "index.snapshot"
    old = snapshot.read_bytes()

    store = await open_store()
    assert store._replica.source == "snapshot"
    assert len(await indexed(store, make)) == 3
    assert (await store.search(make.signature, make.vector(2)))[0].similarity == pytest.approx(1.0, abs=1e-5)
    await remember(store, make, 4)
    await store.clear()
    await remember(store, make, 5)
    await store.close()

    snapshot.write_bytes(old)  # as if the service had died without writing another
    store = await open_store()
    assert store._replica.source == "snapshot"
    assert len(await indexed(store, make)) == 1
    assert await store.check_integrity() == []


def spoil(data: bytes, how: str) -> bytes:
    if how.isdigit():
        place = len(data) * int(how) // 100
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
    return {"cut": data[: len(data) // 2], "empty": b"", "longer": data + b"x", "text": b"hello" * 100}[how]


@pytest.mark.parametrize("how", ["0", "5", "50", "99", "cut", "empty", "longer", "text", "gone"])
async def test_a_damaged_snapshot_is_not_used(open_store, make, tmp_path: Path, how: str) -> None:
    store = await open_store()
    await remember(store, make, 1, 2)
    await store.close()
    snapshot = tmp_path / "data" / "index.snapshot"
    if how == "gone":
        snapshot.unlink()
    else:
        snapshot.write_bytes(spoil(snapshot.read_bytes(), how))
    store = await open_store()
    assert store._replica.source == "catalogue"
    assert len(await indexed(store, make)) == 2
    assert await store.check_integrity() == []


async def test_a_snapshot_of_another_catalogue_is_not_used(open_store, make, tmp_path: Path) -> None:
    store = await open_store()
    await remember(store, make, 1, 2)
    await store.close()
    other = await open_store(data_dir=tmp_path / "other")
    await remember(other, make, 3)
    await other.close()
    (tmp_path / "data" / "index.snapshot").replace(tmp_path / "other" / "index.snapshot")
    other = await open_store(data_dir=tmp_path / "other")
    assert other._replica.source == "catalogue"
    assert len(await indexed(other, make)) == 1


async def test_a_snapshot_older_than_the_stream_is_not_used(open_store, make, tmp_path: Path) -> None:
    store = await open_store()
    await remember(store, make, 1)
    await store.close()
    old = (tmp_path / "data" / "index.snapshot").read_bytes()
    store = await open_store()
    await remember(store, make, 2, 3)
    await store._link.call("XTRIM", "headstart:1:events", "MAXLEN", 1)
    await store.close()
    (tmp_path / "data" / "index.snapshot").write_bytes(old)
    store = await open_store()
    assert store._replica.source == "catalogue"
    assert len(await indexed(store, make)) == 3


async def test_after_a_short_absence_the_index_is_caught_up(store: CacheStore, make) -> None:
    await remember(store, make, 1, 2)
    await came_back(store)
    assert store._replica.source == "held"
    assert len(await indexed(store, make)) == 2
    assert await store.check_integrity() == []


@pytest.mark.parametrize("followed", [True, False])
async def test_what_a_crash_undid_is_undone_here(store: CacheStore, make, followed: bool) -> None:
    await remember(store, make, 1, 2)
    await catch_up(store)
    lose_what_is_written_from_now_on(store)
    if not followed:  # our own changes are then in the index, but the events have not been seen
        prevent_following(store)
    first = (await store.recent("anna"))[-1]
    await remember(store, make, 3)
    await store._remover.clear_entry(first.entry_id)
    if followed:
        await catch_up(store)
    before = await indexed(store, make)
    await came_back(store)
    assert store._replica.source == ("catalogue" if followed else "held")
    after = await indexed(store, make)
    assert after != before
    assert first.entry_id in after
    assert len(after) == 2
    await index_agrees(store)


async def test_numbers_given_out_again_after_a_crash_are_no_history(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    one = await open_store(data_dir=tmp_path / "one", **shared)
    two = await open_store(data_dir=tmp_path / "two", **shared)
    await remember(one, make, 1)
    await catch_up(two)
    lose_what_is_written_from_now_on(host)
    await remember(one, make, 2, 3)
    await catch_up(two)
    seen = two._follower._mark
    prevent_following(two)
    os.kill(host._server.pid, signal.SIGKILL)
    await until(lambda: answers(one))
    # The same numbers again, for other events: two's last one is among them.
    await remember(one, make, 4, 5, 6)
    await until(lambda: answers(two))
    assert (await two._parts.catalogue.last_event()).sequence >= seen.sequence
    with pytest.raises(HistoryLost):
        await two._parts.catalogue.events_after(seen)
    if two._follower._mark == seen:  # it had not even noticed the restart
        with pytest.raises(CacheUnavailable):
            await two._follower.catch_up()
        await until(lambda: answers(two))
    await catch_up(two)
    assert await indexed(two, make) == await indexed(one, make)
    assert len(await indexed(two, make)) == 4
    await index_agrees(two)


async def test_two_replicas_agree_after_adds_deletes_and_missed_events(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    one = await open_store(data_dir=tmp_path / "one", **shared)
    two = await open_store(data_dir=tmp_path / "two", **shared)
    prevent_following(two)
    await catch_up(two)
    assert (await two.stats()).index_lag_events == 0

    await remember(one, make, *range(1, 9))
    for summary in (await one.recent("anna"))[:3]:
        await one._remover.clear_entry(summary.entry_id)
    await asyncio.sleep(0.1)
    stats = await two.stats()
    assert stats.index_lag_events >= 8
    assert stats.index_lag_seconds > 0.09
    await catch_up(two)
    assert await indexed(two, make) == await indexed(one, make)
    assert (await two.stats()).index_lag_events == 0
    assert (await two.stats()).index_lag_seconds == 0

    await remember(one, make, *range(11, 20))
    two._link.renew("a disconnect")
    await until(lambda: answers(two))
    assert two._replica.source == "held"
    assert await indexed(two, make) == await indexed(one, make)

    await remember(one, make, *range(21, 30))
    await one._link.call("XTRIM", "headstart:1:events", "MAXLEN", 3)
    with pytest.raises(CacheUnavailable):
        await two._follower.catch_up()
    await until(lambda: answers(two))
    assert two._replica.source == "catalogue"
    assert await indexed(two, make) == await indexed(one, make)
    assert len(await indexed(two, make)) == 5 + 9 + 9
    assert await two.check_integrity() == []


async def test_a_snapshot_is_written_once_enough_has_changed(store: CacheStore, make, tmp_path: Path) -> None:
    await remember(store, make, 1, 2)
    await catch_up(store)
    await store._replica.tend(store._follower._mark)
    assert not (tmp_path / "data" / "index.snapshot").exists()
    ids = [summary.entry_id for summary in await store.recent("anna")]
    for _ in range(100):
        for entry_id in ids:
            await store.touch_image(entry_id)
    await catch_up(store)
    store._replica._saved_at -= 60
    await store._replica.tend(store._follower._mark)
    assert (tmp_path / "data" / "index.snapshot").exists()
    assert not (tmp_path / "data" / "index.new").exists()


async def test_nothing_is_before_the_first_event(store: CacheStore, make) -> None:
    assert await store._parts.catalogue.last_event() == Mark()
    assert await store._parts.catalogue.events_after(Mark()) == []
    await remember(store, make, 1)
    assert [event.kind for event in await store._parts.catalogue.events_after(Mark())] == ["add"]


async def test_catching_up_ends_though_events_never_do(store: CacheStore, make) -> None:
    """Only what had happened when it began is waited for: a busy store would never evict otherwise."""
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))

    async def use_for_ever() -> None:
        while True:
            await store.touch(found.entry_id, found.states[0])

    users = [asyncio.create_task(use_for_ever()) for _ in range(8)]
    try:
        await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            await store._follower.catch_up_all()
    finally:
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
