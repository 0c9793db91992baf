"""Records and names that nobody can read are skipped: the store opens, evicts, searches, deletes, and mends them."""

import json
from pathlib import Path

import pytest

from cache_store import CacheStore, Selection
from cache_store.catalogue import PREFIX
from cache_store.ghosts import Ghost
from cache_store.records import StateRecord, try_number

LEVEL = -4000  # of skip 0.1


async def call(store: CacheStore, command: str, name: str, *arguments: str | int | bytes) -> object:
    return await store._link.call(command, PREFIX + name, *arguments)


async def fill(store: CacheStore, make, *seeds: int) -> list[int]:
    for seed in seeds:
        assert store.remember(make.entry(seed), make.states(seed, 0.1, 0.3), make.image)
    await store.flush()
    return sorted(summary.entry_id for summary in await store.recent("anna"))


async def junk_counter(store: CacheStore, entry_id: int) -> None:
    await call(store, "HSET", f"states:{entry_id}", f"{LEVEL}:u", "many", f"{LEVEL}:l", "never")


async def junk_member(store: CacheStore, entry_id: int) -> None:
    record = {"log_snr": -4, "skip": 0.1, "pred": False, "nbytes": 9, "created": 1, "member": "secret"}
    await call(store, "HSET", f"states:{entry_id}", LEVEL, json.dumps(record))


async def no_numbers(store: CacheStore, entry_id: int) -> None:
    record = {"log_snr": "x", "skip": [], "pred": 0, "nbytes": 1e400, "created": None, "member": 5}
    await call(store, "HSET", f"states:{entry_id}", LEVEL, json.dumps(record))


async def no_object(store: CacheStore, entry_id: int) -> None:
    await call(store, "HSET", f"states:{entry_id}", LEVEL, "[1, 2]")


async def junk_level(store: CacheStore, entry_id: int) -> None:
    await call(store, "HSET", f"states:{entry_id}", "secret", "{}", "--5", "{}", b"\xff", "{}")


async def junk_in_lists(store: CacheStore, entry_id: int) -> None:
    partition = (await store._parts.catalogue.partitions())[0]
    await call(store, "SADD", f"partition:{partition}", "secret", b"\xff")
    for name in ("entries", "tenant:anna", "images", "order"):
        await call(store, "ZADD", name, 0, "secret", 0, b"\xff")


async def no_prompt(store: CacheStore, entry_id: int) -> None:
    await call(store, "HDEL", f"entry:{entry_id}", "prompt")


DAMAGE = (junk_counter, junk_member, no_numbers, no_object, junk_level, junk_in_lists, no_prompt)


@pytest.mark.parametrize("damage", DAMAGE)
async def test_the_store_goes_on_and_opens_again(open_store, make, tmp_path: Path, damage, caplog) -> None:
    store = await open_store()
    ids = await fill(store, make, 1, 2)
    await damage(store, ids[0])
    assert ids[1] in {found.entry_id for found in await store.search(make.signature, make.vector(2))}
    await store._follower.recover()
    await store.close()
    (tmp_path / "data" / "index.snapshot").unlink(missing_ok=True)

    store = await open_store(byte_budget=4000, image_budget=len(make.image.data))
    assert (await store.stats()).available
    await fill(store, make, 3)
    assert (await store.stats()).state_bytes <= 4000
    assert (await store.stats()).evictions
    assert len(await store.repair()) > 0 or damage is no_prompt
    assert await store.check_integrity() == []
    assert "secret" not in caplog.text


async def test_events_about_damaged_entries_are_followed(store: CacheStore, make) -> None:
    await store.flush()
    for task in store._follower._tasks:
        task.cancel()
    first, second = await fill(store, make, 1, 2)
    await junk_counter(store, first)
    await junk_level(store, second)
    await store._parts.catalogue.clear_entry(second, "cleared")
    await store._follower.catch_up_all()
    assert store._follower.sequence == (await store._parts.catalogue.totals()).last_event


@pytest.mark.parametrize(
    "raw", ["rubbish", "[]", "{}", '{"member": 5, "nbytes": "x"}', '{"member": "m", "nbytes": 0.5}']
)
async def test_an_unreadable_record_can_be_dropped_and_cleared(store: CacheStore, make, raw: str) -> None:
    first, second = await fill(store, make, 1, 2)
    for entry_id in (first, second):
        await call(store, "HSET", f"states:{entry_id}", LEVEL, raw)
    await store._parts.catalogue.touch(first, LEVEL)
    assert await store._remover.drop_state((first, LEVEL), "corrupt")
    assert await store._parts.catalogue.levels(first) == [-2000]
    assert await store.forget(Selection(tenant="anna", entry_ids=(first, second))) == 2
    assert await store.recent("anna") == []
    await store.repair()  # the order's members and the sums
    assert await store.check_integrity() == []


async def test_deleting_nothing_keeps_the_ghosts(store: CacheStore, make) -> None:
    (entry_id,) = await fill(store, make, 1)
    ghosts = store._parts.ghosts
    for ghost in (7, 8):
        ghosts.add("p", make.vector(ghost), Ghost(ghost, ghost, 1.0))
    assert await store.forget(Selection(tenant="anna", entry_ids=(4711, 8))) == 0
    assert len(ghosts) == 1  # it was named itself
    assert await store.forget(Selection(tenant="anna", entry_ids=(entry_id,))) == 1
    assert len(ghosts) == 0


async def test_a_lease_about_to_end_still_counts(store: CacheStore, make) -> None:
    (entry_id,) = await fill(store, make, 1)
    now, _ = await store._parts.catalogue.time()
    await call(store, "SET", "clock:offset", "-1000000000")
    await call(store, "ZADD", "leases", f"{now - 1e9 + 30:.6f}", entry_id)
    _, leased = await store._parts.catalogue.drop_state(entry_id, LEVEL, "lru", evict=True)
    assert 0 < leased <= 30
    assert LEVEL in await store._parts.catalogue.levels(entry_id)


def test_a_record_of_the_next_version_is_read() -> None:
    record = StateRecord(-4.0, 0.1, False, 9, 1, "0000000000000001:5:-4000")
    later = json.dumps(json.loads(record.dump()) | {"colour": "red"})
    assert StateRecord.parse(later.encode()) == record


def test_numbers() -> None:
    assert [try_number(raw) for raw in (b"5", "-5", b"0")] == [5, -5, 0]
    assert [try_number(raw) for raw in (b"", b" 5", "1_0", b"05", "9" * 30, b"\xff", "x")] == [None] * 7
