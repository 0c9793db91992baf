"""Whatever is broken by hand is named by the check and mended by the repair, while the store goes on."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_nouns import Make, until

from cache_store import CacheStore, Selection, StoreConfig, user_digest
from cache_store.catalogue import PREFIX
from cache_store.events import Event, Mark
from cache_store.integrity import Manner
from cache_store.mending import CatalogueMender
from cache_store.mending_scripts import MEND_MEMBERS
from cache_store.records import parse_member
from policies.eviction import Item

BOB = user_digest("anna", "bob")
SEEDS = (1, 2, 3)


class Broken:
    """A store of three entries, and ways to break it."""

    def __init__(self, store: CacheStore, make: Make) -> None:
        self.store = store
        self.make = make
        self.random = random.Random(0)
        self.ids: list[int] = []

    async def fill(self) -> "Broken":
        for seed in SEEDS:
            entry = replace(self.make.entry(seed), user=BOB)
            self.store.remember(entry, self.make.states(seed, 0.1, 0.3), self.make.image)
        await self.store.flush()
        self.ids = sorted(summary.entry_id for summary in await self.store.recent("anna"))
        return self

    async def call(self, command: str, name: str, *arguments: str | int | float) -> None:
        await self.store._link.call(command, PREFIX + name, *arguments)

    @property
    def id(self) -> int:
        return self.random.choice(self.ids)

    @property
    def partition(self) -> str:
        return self.make.signature.digest

    def level(self, skip: float) -> int:
        return round((10 * skip - 5) * 1000)

    def objects(self, suffix: str) -> list[Path]:
        store_id = self.store._parts.objects.store_id
        return sorted((self.store._config.data_dir / "objects" / store_id).rglob(f"*{suffix}"))

    async def member(self) -> str:
        members = await self.store._link.call("ZRANGE", PREFIX + "order", 0, -1)
        return str(self.random.choice(members).decode())

    async def lost_entry(self) -> None:
        await self.call("DEL", f"entry:{self.id}")

    async def halved_entry(self) -> None:
        await self.call("HDEL", f"entry:{self.id}", "tenant", "embedding")

    async def lost_states(self) -> None:
        await self.call("DEL", f"states:{self.id}")

    async def lost_state(self) -> None:
        await self.call("HDEL", f"states:{self.id}", self.level(0.1))

    async def unreadable_state(self) -> None:
        await self.call("HSET", f"states:{self.id}", self.level(0.3), "rubbish")

    async def lost_counter(self) -> None:
        await self.call("HDEL", f"states:{self.id}", f"{self.level(0.3)}:u")

    async def counter_of_nothing(self) -> None:
        await self.call("HSET", f"states:{self.id}", "99:u", 3)

    async def states_of_nobody(self) -> None:
        await self.call("HSET", "states:77", "5", "{}", "5:u", 0)

    async def unlisted(self) -> None:
        await self.call("ZREM", "entries", self.id)

    async def listed_without_being(self) -> None:
        await self.call("ZADD", "entries", 5, 4711)

    async def not_under_its_tenant(self) -> None:
        await self.call("ZREM", "tenant:anna", self.id)

    async def under_another_tenant(self) -> None:
        await self.call("ZADD", "tenant:bert", 5, self.id)

    async def not_under_its_user(self) -> None:
        await self.call("SREM", f"user:{BOB}", self.id)

    async def under_another_user(self) -> None:
        await self.call("SADD", "user:" + "0" * 64, self.id)

    async def not_in_its_partition(self) -> None:
        await self.call("SREM", f"partition:{self.partition}", self.id)

    async def in_another_partition(self) -> None:
        await self.call("SADD", "partition:other", self.id, 99)
        await self.call("SADD", "partitions", "other")

    async def partition_unlisted(self) -> None:
        await self.call("SREM", "partitions", self.partition)

    async def partition_of_nothing(self) -> None:
        await self.call("SADD", "partitions", "nothing")

    async def not_in_order(self) -> None:
        await self.call("ZREM", "order", await self.member())

    async def in_order_only(self) -> None:
        await self.call("ZADD", "order", 1, f"0000000000000001:{self.id}:12345", 2, "rubbish")

    async def picture_not_in_order(self) -> None:
        await self.call("ZREM", "images", self.id)

    async def picture_of_nobody(self) -> None:
        await self.call("ZADD", "images", 1, 4711)

    async def no_exact_key(self) -> None:
        await self.call("DEL", f"exact:anna-{self.random.choice(SEEDS)}")

    async def exact_key_to_nowhere(self) -> None:
        await self.call("SET", "exact:other", self.id)

    async def exact_key_to_another(self) -> None:
        await self.call("SET", "exact:anna-1", self.ids[-1])

    async def wrong_totals(self) -> None:
        await self.call("HINCRBY", "totals", "state_bytes", 1000)
        await self.call("HINCRBY", "totals", "image_bytes", -10)

    async def lost_totals(self) -> None:
        await self.call("DEL", "totals")

    async def lost_object(self) -> None:
        if names := self.objects(".safetensors"):
            self.random.choice(names).unlink()

    async def lost_picture(self) -> None:
        if names := self.objects(".png"):
            self.random.choice(names).unlink()

    async def stray_object(self) -> None:
        name = self.store._parts.objects.state_path(4711, 5)
        await self.store._parts.objects.put(name, b"x")
        await self.store._parts.objects.put(f"{self.store._parts.objects.store_id}/stray", b"x")

    async def stray_in_memory(self) -> None:
        self.store._parts.ram.put((4711, 5), b"a file")

    async def not_in_the_index(self) -> None:
        await self.store._parts.thread.run(self.store._parts.index.remove, [self.id])

    async def in_the_index_only(self) -> None:
        rows = self.make.vector(7)[None]
        await self.store._parts.thread.run(self.store._parts.index.add, self.partition, [4711], rows)

    async def partition_in_the_index_only(self) -> None:
        rows = self.make.vector(8)[None]
        await self.store._parts.thread.run(self.store._parts.index.add, "gone", [4712], rows)

    async def unknown_to_the_policy(self) -> None:
        key = parse_member(await self.member())
        self.store._parts.ranking.policy.remove(key)

    async def in_the_policy_only(self) -> None:
        self.store._parts.ranking.policy.add((4713, 5), Item(0.5, 1.0, 100, 4713))

    async def unusable_embedding(self) -> None:
        entry_id = self.id
        await self.call("HSET", f"entry:{entry_id}", "embedding", "rubbish")
        await self.store._parts.thread.run(self.store._parts.index.remove, [entry_id])


WAYS = sorted(
    name
    for name, method in vars(Broken).items()
    if asyncio.iscoroutinefunction(method) and name not in ("fill", "call", "member")
)


@pytest.mark.parametrize("way", WAYS)
async def test_named_mended_and_clean(store: CacheStore, make, way: str) -> None:
    broken = await Broken(store, make).fill()
    assert await store.check_integrity() == []
    await getattr(broken, way)()
    named = await store.check_integrity()
    assert named
    assert await store.check_integrity() == named  # looking changes nothing
    mended = await store.repair()
    assert set(named) & set(mended)
    assert await store.check_integrity() == []
    assert await store.repair() == []
    assert (await store.stats()).repairs == len(mended)
    assert "secret" not in repr(mended)
    # What was not broken is still there, and the store works.
    assert len(await store.recent("anna")) >= 2
    for found in await store.search(make.signature, make.vector(1)):
        for ref in found.states:
            assert await store.load(found.entry_id, ref) is not None
    store.remember(make.entry(9), make.states(9), make.image)
    await store.flush()
    assert await store.find_exact("anna-9") is not None
    assert await store.check_integrity() == []


async def test_damaged_bytes_are_found_by_scrubbing(store: CacheStore, make) -> None:
    broken = await Broken(store, make).fill()
    for suffix in (".safetensors", ".png"):
        path = broken.objects(suffix)[0]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    assert await store.check_integrity() == []
    assert await store.repair() == []
    assert [line.split()[-1] for line in await store.check_integrity(scrub=True)] == ["damaged", "damaged"]
    assert len(await store.repair(scrub=True)) == 2
    assert await store.check_integrity(scrub=True) == []
    assert (await store.stats()).evictions == {"corrupt": 2}


async def test_the_same_picture_twice_is_no_disagreement(store: CacheStore, make) -> None:
    for _ in range(3):
        store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    assert await store.check_integrity() == []
    newest = (await store.recent("anna"))[0]
    assert (await store.find_exact("anna-1")).entry_id == newest.entry_id
    await store._remover.drop_image(newest.entry_id, "image_budget")
    assert await store.check_integrity() == []
    await store._remover.clear_entry(newest.entry_id)
    assert await store.check_integrity() == []
    assert await store.repair() == []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, CacheStore]]:
    folder: Path = tmp_path_factory.mktemp("repair")
    with asyncio.Runner() as runner:
        store = runner.run(CacheStore.open(StoreConfig(folder, timeout_seconds=5.0)))
        yield runner, store
        runner.run(store.close())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ways=st.lists(st.sampled_from(WAYS), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_any_breakage_is_mended(running: tuple[asyncio.Runner, CacheStore], ways: list[str], seed: int) -> None:
    runner, store = running

    async def scenario() -> None:
        await store.clear()
        broken = await Broken(store, Make()).fill()
        broken.random.seed(seed)
        for way in ways:
            await getattr(broken, way)()
        await store.repair()
        assert await store.check_integrity() == []
        assert await store.repair() == []

    runner.run(scenario())


async def test_repair_beside_writes_and_deletions_touches_neither(store: CacheStore, make) -> None:
    stop = False

    async def busy() -> None:
        seed = 0
        while not stop:
            seed += 1
            store.remember(make.entry(seed), make.states(seed, 0.1, 0.3), make.image)
            if seed % 5 == 0:
                await store.flush()
                await store.forget(Selection(tenant="anna", entry_ids=((await store.recent("anna"))[-1].entry_id,)))
            await asyncio.sleep(0)

    work = asyncio.create_task(busy())
    for _ in range(5):
        assert await store.repair() == []
    stop = True
    await work
    await store.flush()
    assert await store.check_integrity() == []


async def test_totals_are_mended_beside_writes(store: CacheStore, make) -> None:
    broken = await Broken(store, make).fill()
    await broken.wrong_totals()

    async def write() -> None:
        for seed in range(10, 30):
            store.remember(make.entry(seed), make.states(seed, 0.1), make.image)
            await asyncio.sleep(0.002)

    work = asyncio.create_task(write())
    assert any("counted" in line for line in await store.repair())
    await work
    await store.flush()
    assert await store.check_integrity() == []


async def test_young_objects_of_a_shared_store_are_left_alone(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    store = await open_store(data_dir=tmp_path / "one", **shared)
    objects = store._parts.objects
    name = objects.state_path(4711, 5)  # another service is writing it perhaps
    await objects.put(name, b"x")
    assert await store.repair() == []
    assert await objects.get(name) == b"x"
    later = Manner(mend=True, older_than=4e9)
    assert await store._upkeep._inspector(lambda: store._exclusive, later).run() == [
        f"object {name} belongs to nothing"
    ]
    assert await objects.get(name) is None


async def test_a_start_after_a_crash_repairs_by_itself(open_store, make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cache_store.caretaker._SOON_SECONDS", 0.05)
    store = await open_store()
    broken = await Broken(store, make).fill()
    assert (tmp_path / "data" / "running").exists()
    await broken.wrong_totals()
    await store.close()
    assert not (tmp_path / "data" / "running").exists()

    store = await open_store()
    await asyncio.sleep(0.5)
    assert (await store.stats()).repairs == 0
    await store.close()
    (tmp_path / "data" / "running").touch()

    store = await open_store()

    async def repaired() -> bool:
        return (await store.stats()).repairs > 0

    await until(repaired)
    await store.flush()
    assert await store.check_integrity() == []


async def test_a_history_too_long_for_the_walk_leaves_only_the_sums(store: CacheStore, make, monkeypatch) -> None:
    broken = await Broken(store, make).fill()
    await broken.wrong_totals()
    await broken.lost_entry()
    judge = CatalogueMender._judge

    async def outrun(self: CatalogueMender, kind: str, name: str, members: list[str]) -> list[str]:
        if kind == "partitions":
            await broken.call("XTRIM", "events", "MAXLEN", 0)
        return await judge(self, kind, name, members)

    with monkeypatch.context() as patch:
        patch.setattr(CatalogueMender, "_judge", outrun)
        mended = await store.repair()
    assert any("incomplete" in line for line in mended)
    assert not any("counted" in line for line in mended)
    assert store._link.available


async def test_sums_follow_the_walk(store: CacheStore, make, monkeypatch) -> None:
    monkeypatch.setattr("cache_store.mending._KEEP_UP_SECONDS", 0.0)
    broken = await Broken(store, make).fill()
    await broken.wrong_totals()
    seen = []
    events_after = store._parts.catalogue.events_after

    async def watched(mark: Mark) -> list[Event]:
        seen.append(mark.sequence)
        return await events_after(mark)

    measure = CatalogueMender._measure

    async def write_too(self: CatalogueMender, entry_ids: list[int]) -> list[str]:
        if len(seen) < 3:
            await store._remover.clear_entry(broken.ids[len(seen)])
        return await measure(self, entry_ids)

    monkeypatch.setattr(store._parts.catalogue, "events_after", watched)
    monkeypatch.setattr(CatalogueMender, "_measure", write_too)
    assert any("counted" in line for line in await store.repair())
    assert len(set(seen)) > 1
    assert await store.check_integrity() == []


async def test_the_index_is_compared_without_reading_embeddings(store: CacheStore, make, monkeypatch) -> None:
    broken = await Broken(store, make).fill()
    await broken.not_in_the_index()
    await broken.in_the_index_only()
    monkeypatch.setattr(store._parts.catalogue, "embeddings", None)
    assert len(await store.repair()) == 2
    assert await store.check_integrity() == []


async def test_evictions_elsewhere_are_no_disagreement(store: CacheStore, make, monkeypatch) -> None:
    broken = await Broken(store, make).fill()
    for task in store._follower._tasks:
        task.cancel()
    catch_up_all, left = store._follower.catch_up_all, [(broken.ids[0], broken.level(0.1))]

    async def then_elsewhere() -> None:
        await catch_up_all()
        if left:
            async with store._parts.redis():
                await store._parts.catalogue.drop_state(*left.pop(), "lru")

    monkeypatch.setattr(store._follower, "catch_up_all", then_elsewhere)
    problems = await store.repair()
    assert not left
    assert [line for line in problems if "policy" in line] == []


@pytest.mark.parametrize(
    ("kind", "name", "member"),
    [
        ("tenant", "bert", "5"),
        ("user", BOB, "5"),
        ("partition", "p", "5"),
        ("partitions", "", "p"),
        ("order", "", "1:5:5"),
        ("images", "", "5"),
        ("entries", "", "x"),
        ("exact", "", "e"),
    ],
)
async def test_what_left_a_list_since_it_was_read_is_no_disagreement(
    store: CacheStore, kind: str, name: str, member: str
) -> None:
    for mend in (0, 1):
        assert await store._link.script(MEND_MEMBERS, PREFIX, mend, kind, name, member) == []
