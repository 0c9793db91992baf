"""Deletion by tenant, user, entry and time: what is named is gone everywhere, nothing else is."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_nouns import Make, append_only_file

from cache_store import CacheStore, Selection, user_digest

BOB, EVE = user_digest("anna", "bob"), user_digest("anna", "eve")


async def remember(store: CacheStore, make, seed: int, *, tenant: str = "anna", user: str = "") -> int:
    assert store.remember(replace(make.entry(seed, tenant=tenant), user=user), make.states(seed), make.image)
    await store.flush()
    return (await store.recent(tenant, limit=1))[0].entry_id


async def seeds(store: CacheStore, tenant: str = "anna") -> set[int]:
    return {summary.seed for summary in await store.recent(tenant)}


async def test_by_user(store: CacheStore, make, tmp_path: Path) -> None:
    gone = await remember(store, make, 1, user=BOB)
    await remember(store, make, 2, user=EVE)
    await remember(store, make, 3)
    assert await store.forget(Selection(tenant="anna", user=BOB)) == 1
    assert await seeds(store) == {2, 3}
    assert await store.find_exact("anna-1") is None
    assert gone not in {c.entry_id for c in await store.search(make.signature, make.vector(1))}
    assert not list((tmp_path / "data" / "objects").rglob(f"{gone:016x}*"))
    assert await store._link.call("EXISTS", f"headstart:1:user:{BOB}") == 0
    assert await store.forget(Selection(tenant="bert", user=EVE)) == 0
    assert await store.check_integrity() == []


async def test_by_entry(store: CacheStore, make) -> None:
    first, second = await remember(store, make, 1), await remember(store, make, 2)
    assert await store.forget(Selection(tenant="bert", entry_ids=(first,))) == 0
    assert await store.forget(Selection(tenant="anna", entry_ids=(first, first, 12345))) == 1
    assert await seeds(store) == {2}
    assert await store.forget(Selection(tenant="anna", user=BOB, entry_ids=(second,))) == 0
    assert await store.check_integrity() == []


async def test_by_time(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    await asyncio.sleep(0.05)
    between = (await store.recent("anna"))[0].created + 0.02
    await remember(store, make, 2)
    await remember(store, make, 3, tenant="bert")
    before = Selection(tenant="anna", created_before=between)
    after = Selection(tenant="anna", created_after=between)
    assert await store.forget(replace(after, created_after=time.time() + 60)) == 0
    assert await store.forget(before) == 1
    assert await seeds(store) == {2}
    assert await store.forget(after) == 1
    assert await store.forget(Selection(everybody=True, created_before=time.time() + 60)) == 1
    assert (await store.stats()).entries == 0
    assert await store.check_integrity() == []


async def test_queued_writes_that_match_are_dropped(store: CacheStore, make) -> None:
    async with store._exclusive:
        for seed, user in ((1, BOB), (2, EVE), (3, BOB)):
            store.remember(replace(make.entry(seed), user=user), make.states(seed), make.image)
        forgetting = asyncio.create_task(store.forget(Selection(tenant="anna", user=BOB)))
        await asyncio.sleep(0.05)
    assert await forgetting in {0, 1, 2}  # the first was being written perhaps
    store.remember(replace(make.entry(4), user=BOB), make.states(4), make.image)
    await store.flush()
    assert await seeds(store) == {2, 4}
    assert await store.check_integrity() == []


async def test_many_go_in_batches_between_which_others_work(store: CacheStore, make) -> None:
    for seed in range(1, 41):
        store.remember(make.entry(seed), make.states(seed, 0.3), make.image)
    await store.flush()
    forgetting = asyncio.create_task(store.clear("anna"))
    await asyncio.sleep(0)
    store.remember(make.entry(99), make.states(99, 0.3), make.image)
    slowest = 0.0
    while not forgetting.done():
        started = time.monotonic()
        await store.find_exact("anna-40")
        await asyncio.sleep(0)
        slowest = max(slowest, time.monotonic() - started)
    assert await forgetting == 40
    assert slowest < 1.0
    await store.flush()
    assert await seeds(store) == {99}
    assert await store.check_integrity() == []


async def test_another_service_sees_it_after_one_round_of_events(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    one = await open_store(data_dir=tmp_path / "one", **shared)
    two = await open_store(data_dir=tmp_path / "two", **shared)
    entry_id = await remember(one, make, 1, user=BOB)
    await two._follower.catch_up()
    (found,) = await two.search(make.signature, make.vector(1))
    assert await two.load(entry_id, found.states[0]) is not None
    assert await one.forget(Selection(tenant="anna", user=BOB)) == 1
    while await two._follower.catch_up():
        pass
    assert await two.search(make.signature, make.vector(1)) == []
    assert await two.find_exact("anna-1") is None
    assert await two.load(entry_id, found.states[0]) is None
    await two.flush()
    assert await two.check_integrity() == []


async def test_no_user_name_is_stored(store: CacheStore, make, tmp_path: Path) -> None:
    await remember(store, make, 1, user=user_digest("anna", "bob@example.org"))
    assert "user" not in repr((await store.recent("anna"))[0])
    await asyncio.sleep(1.2)
    log = append_only_file(tmp_path / "data").read_bytes()
    assert b"secret prompt" in log
    assert b"example.org" not in log


def test_a_selection_must_say_whose() -> None:
    for wrong in ({}, {"user": BOB}, {"tenant": "anna", "everybody": True}, {"tenant": "anna", "user": "bob"}):
        with pytest.raises(ValueError, match=r"tenant|digest"):
            Selection(**wrong)
    assert user_digest("anna", None) == user_digest("anna", "") == ""
    assert len({BOB, EVE, user_digest("bert", "bob"), user_digest("ann", "abob")}) == 4


@given(before=st.none() | st.floats(0, 100), after=st.none() | st.floats(0, 100), created=st.floats(0, 100))
def test_ranges_are_half_open(before: float | None, after: float | None, created: float) -> None:
    selection = Selection(tenant="anna", created_before=before, created_after=after)
    inside = (before is None or created < before) and (after is None or created >= after)
    assert selection.matches("anna", "", created) == inside
    assert not selection.matches("bert", "", created)
    entry = replace(Make().entry(1), created=created)
    assert selection.matches_queued(entry, created) == inside


async def test_writers_do_not_wait_for_the_walk(store: CacheStore, make, monkeypatch) -> None:
    await remember(store, make, 1)
    choose = store._upkeep.forgetter._choose

    async def write_meanwhile(selection: Selection) -> list[int]:
        await remember(store, make, 2)
        return await choose(selection)

    monkeypatch.setattr(store._upkeep.forgetter, "_choose", write_meanwhile)
    async with asyncio.timeout(5):
        assert await store.clear("anna") >= 1
    assert await store.check_integrity() == []
