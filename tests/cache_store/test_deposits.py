"""Deposits: whose they are, how long and how many, and that their bytes go with them."""

import asyncio
import time

import pytest

from cache_store import CacheStore, CacheUnavailable
from cache_store.deposits import Deposits
from cache_store.selection import Selection, user_digest

ANN = user_digest("acme", "ann")


def _name(number: int) -> str:
    return f"{number:032x}"


async def _names(deposits: Deposits, tenant: str = "acme") -> list[int]:
    return [int(found.name, 16) for found in await deposits.page("job", tenant, below=None, limit=100)]


async def _objects(store: CacheStore) -> int:
    return len([name async for page in store._parts.objects.names() for name in page if "deposits" in name])


async def test_only_its_tenant_finds_it_and_it_is_made_once(store: CacheStore) -> None:
    deposits = store.deposits
    assert await deposits.create("job", _name(1), "acme", "one")
    assert not await deposits.create("job", _name(1), "acme", "again")
    assert not await deposits.create("job", _name(1), "umbrella", "mine")
    found = await deposits.find("job", _name(1), "acme")
    assert found is not None
    assert (found.body, found.size, found.flag) == ("one", 0, "")
    assert 0 <= found.idle_seconds < 60 < found.seconds_left
    assert await deposits.find("job", _name(1), "umbrella") is None
    assert await deposits.find("image", _name(1), "acme") is None
    assert await deposits.update("job", _name(1), "umbrella", "stolen") is None
    assert not await deposits.drop("job", _name(1), "umbrella")
    assert not await deposits.flag("job", _name(1), "umbrella", "cancel")
    assert await deposits.update("job", _name(2), "acme", "nothing there") is None


async def test_an_update_brings_the_flag_that_was_left(store: CacheStore) -> None:
    await store.deposits.create("job", _name(1), "acme", "one")
    assert await store.deposits.update("job", _name(1), "acme", "two") == ""
    assert await store.deposits.flag("job", _name(1), "acme", "cancel")
    assert await store.deposits.update("job", _name(1), "acme", "three") == "cancel"


async def test_bytes_are_kept_verified_and_deleted(store: CacheStore) -> None:
    deposits = store.deposits
    await deposits.create("image", _name(1), "acme", "png", data=b"pixels")
    found = await deposits.find("image", _name(1), "acme")
    assert found is not None
    assert found.size == 6
    assert await deposits.data(found) == b"pixels"
    assert await store.check_integrity() == []
    assert await store.repair() == []
    await store._parts.objects.put(deposits._path("image", _name(1)), b"others")
    assert await deposits.data(found) is None
    assert await deposits.drop("image", _name(1), "acme")
    assert await _objects(store) == 0
    assert await deposits.data(found) is None


async def test_pages_are_newest_first_and_go_on_below_a_number(store: CacheStore) -> None:
    for number in range(5):
        await store.deposits.create("job", _name(number), "acme", "")
    await store.deposits.create("job", _name(9), "umbrella", "")
    first = await store.deposits.page("job", "acme", below=None, limit=2)
    rest = await store.deposits.page("job", "acme", below=first[-1].number, limit=10)
    assert [int(found.name, 16) for found in [*first, *rest]] == [4, 3, 2, 1, 0]


async def test_a_tenant_has_so_many_of_a_kind_and_pushes_out_nobody_elses(open_store) -> None:
    deposits = (await open_store(results=3)).deposits
    await deposits.create("job", _name(50), "umbrella", "")
    for number in range(5):
        await deposits.create("job", _name(number), "acme", "")
    assert await _names(deposits) == [4, 3, 2]
    assert await _names(deposits, "umbrella") == [50]


async def test_the_oldest_bytes_make_room(open_store) -> None:
    store = await open_store(result_bytes=250)
    for number in range(4):
        await store.deposits.create("image", _name(number), "acme", "", data=b"x" * 100)
    there = [await store.deposits.find("image", _name(number), "acme") is not None for number in range(4)]
    assert there == [False, False, True, True]
    assert await _objects(store) == 2


@pytest.mark.parametrize("bounds", [{"result_seconds": 1.0}, {"ttl_seconds": 1.0}])
async def test_it_lives_so_long(open_store, bounds: dict[str, float]) -> None:
    store = await open_store(**bounds)
    await store.deposits.create("image", _name(1), "acme", "", data=b"x")
    assert await store.deposits.find("image", _name(1), "acme") is not None
    deadline = time.monotonic() + 30
    while await store.deposits.find("image", _name(1), "acme") is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await store.deposits.collect()
    assert await _objects(store) == 0
    assert await store.deposits.create("image", _name(1), "acme", "anew")


async def test_forgetting_takes_copies_along(store: CacheStore) -> None:
    deposits = store.deposits
    await deposits.create("job", _name(1), "acme", "", user=ANN)
    await deposits.create("image", _name(2), "acme", "", user=ANN, data=b"x")
    await deposits.create("job", _name(3), "acme", "")
    await deposits.create("job", _name(4), "umbrella", "")
    await store.forget(Selection(tenant="acme", user=ANN))
    assert await _names(deposits) == [3]
    assert await deposits.find("image", _name(2), "acme") is None
    await store.forget(Selection(tenant="acme", created_before=time.time() - 3600))
    assert await _names(deposits) == [3]
    await store.forget(Selection(tenant="acme"))
    assert await _names(deposits) == []
    assert await _names(deposits, "umbrella") == [4]


async def test_names_that_are_none_are_not_found(store: CacheStore) -> None:
    for name in ("", "..", "../../x", "g" * 32, "a" * 65):
        assert await store.deposits.find("job", name, "acme") is None


async def test_without_redis_it_is_unavailable(store: CacheStore) -> None:
    await store._link.close()
    with pytest.raises(CacheUnavailable):
        await store.deposits.create("job", _name(1), "acme", "")
    with pytest.raises(CacheUnavailable):
        await store.deposits.find("job", _name(1), "acme")
