"""Records of generations: whose they are, how many, how long, and that they go with what they tell of."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from store_nouns import Make

from cache_store import CacheStore
from cache_store.generations import GenerationRecord
from cache_store.link import Argument
from cache_store.selection import Selection, user_digest

ANN = user_digest("acme", "ann")


def _record(name: str, **changes: object) -> GenerationRecord:
    fields = {"tenant": "acme", "user": "", "body": f"of {name}", "noted": time.monotonic(), **changes}
    return GenerationRecord(name, **fields)  # type: ignore[arg-type]


async def test_a_record_is_found_by_its_tenant_alone(store: CacheStore) -> None:
    assert await store.record_generation(_record("a", user=ANN))
    found = await store.generation("a", "acme")
    assert found is not None
    assert (found.body, found.user, found.entry_id, found.repeats) == ("of a", ANN, None, None)
    assert abs(found.created - time.time()) < 60
    assert await store.generation("a", "umbrella") is None
    assert await store.generation("b", "acme") is None


async def test_the_oldest_go_first_and_0_keeps_none(open_store) -> None:
    store = await open_store(generations=3)
    for name in "abcde":
        await store.record_generation(_record(name))
    assert [await store.generation(name, "acme") is not None for name in "abcde"] == [False, False, True, True, True]
    await store.close()
    none = await open_store(generations=0)
    assert not await none.record_generation(_record("f"))
    assert await none.generation("f", "acme") is None


@pytest.mark.parametrize("bounds", [{"generation_seconds": 1.0}, {"ttl_seconds": 1.0}])
async def test_a_record_lives_no_longer_than_it_may(open_store, bounds: dict[str, float]) -> None:
    store = await open_store(**bounds)
    await store.record_generation(_record("a"))
    assert await store.generation("a", "acme") is not None
    deadline = time.monotonic() + 30
    while await store.generation("a", "acme") is not None:
        assert time.monotonic() < deadline


async def test_the_maker_of_an_entry_is_found_even_once_the_entry_is_gone(store: CacheStore, make: Make) -> None:
    entry = replace(make.entry(1), generation="a")
    await store.record_generation(_record("a", tenant=entry.signature.tenant))
    store.remember(entry, make.states(1), make.image)
    await store.flush()
    (known,) = await store.recent(entry.signature.tenant)
    for state in known.states:
        await store._remover.drop_state((known.entry_id, round(state.log_snr * 1000)), "lru", evict=False)
    await store._remover.drop_image(known.entry_id, "image_budget")
    assert await store.entry(known.entry_id, entry.signature.tenant) is None
    maker = await store.maker_of(known.entry_id, entry.signature.tenant)
    assert maker is not None
    assert (maker.generation, maker.entry_id) == ("a", known.entry_id)
    assert await store.maker_of(known.entry_id, "umbrella") is None


async def test_makers_of_several_entries_are_read_together(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, entry_id, tenant in (("a", 1, "acme"), ("b", 2, "umbrella"), ("c", 3, "acme")):
        await store.record_generation(_record(name, tenant=tenant))
        await store._parts.generations.link(name, entry_id)
    asked = 0
    batch = store._link.batch

    async def counted(commands: Sequence[Sequence[Argument]]) -> list[object]:
        nonlocal asked
        asked += 1
        return await batch(commands)

    monkeypatch.setattr(store._link, "batch", counted)
    found = await store.makers_of([3, 4, 2, 1, 3], "acme")
    assert [maker and (maker.generation, maker.entry_id) for maker in found] == [
        ("c", 3),
        None,
        None,
        ("a", 1),
        ("c", 3),
    ]
    assert asked == 2
    assert await store.makers_of([], "acme") == []
    assert asked == 2


async def test_records_go_with_their_user_their_time_and_their_tenant(store: CacheStore) -> None:
    for name, user in (("a", ANN), ("b", ""), ("c", ANN)):
        await store.record_generation(_record(name, user=user))
    await store.record_generation(_record("d", tenant="umbrella", user=ANN))
    await store.forget(Selection(tenant="acme", user=ANN))
    assert await store.generation("a", "acme") is None
    assert await store.generation("b", "acme") is not None
    await store.forget(Selection(tenant="acme", created_before=time.time() - 3600))
    assert await store.generation("b", "acme") is not None
    await store.forget(Selection(tenant="acme", created_after=time.time() - 3600))
    assert await store.generation("b", "acme") is None
    assert await store.generation("d", "umbrella") is not None
    await store.forget(Selection(everybody=True))
    assert await store.generation("d", "umbrella") is None


async def test_records_go_with_the_entry_they_made_or_repeated(store: CacheStore, make: Make) -> None:
    entry = replace(make.entry(1), generation="a")
    tenant = entry.signature.tenant
    store.remember(entry, make.states(1), make.image)
    await store.flush()
    (known,) = await store.recent(tenant)
    await store.record_generation(_record("a", tenant=tenant))
    await store.record_generation(_record("again", tenant=tenant, repeats=known.entry_id))
    await store.record_generation(_record("other", tenant=tenant))
    await store.forget(Selection(tenant=tenant, entry_ids=(known.entry_id,)))
    found = [await store.generation(name, tenant) is not None for name in ("a", "again", "other")]
    assert found == [False, False, True]
    assert await store.maker_of(known.entry_id, tenant) is None


async def test_a_record_forgotten_while_it_waits_is_never_written(store: CacheStore) -> None:
    waits, fresh = _record("a", user=ANN), _record("b")
    await store.forget(Selection(tenant="acme", user=ANN))
    assert not await store.record_generation(waits)
    assert await store.record_generation(fresh)
    assert await store.record_generation(_record("c", user=ANN))
    assert await store.generation("a", "acme") is None


async def test_a_repair_leaves_records_alone(store: CacheStore) -> None:
    await store.record_generation(_record("a"))
    assert await store.check_integrity() == []
    assert await store.repair() == []
    assert await store.generation("a", "acme") is not None


async def test_what_came_from_an_entry_is_listed_newest_first_to_its_tenant_alone(store: CacheStore) -> None:
    for name in "abcde":
        await store.record_generation(_record(name, source=7))
    await store.record_generation(_record("f", source=8))
    await store.record_generation(_record("g", source=7, tenant="umbrella"))
    first, place = await store.descendants(7, "acme", before=None, limit=3)
    rest, end = await store.descendants(7, "acme", before=place, limit=3)
    assert [record.generation for record in (*first, *rest)] == list("edcba")
    assert (place is not None, end) == (True, None)
    theirs, _ = await store.descendants(7, "umbrella", before=None, limit=3)
    assert [record.generation for record in theirs] == ["g"]
    await store.forget(Selection(tenant="acme", created_after=time.time() - 3600))
    assert await store.descendants(7, "acme", before=None, limit=3) == ([], None)
