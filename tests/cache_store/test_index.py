"""One contract for every kind of shelf, and what is special to some."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_store.index import Growth, IndexThread, PartitionedIndex, Reshelver, VectorIndex, Workshop
from cache_store.index.flat import FlatShelf
from cache_store.index.ivf import IvfShelf

SIZE = 6
# Components of so few dimensions are large, and so is an eighth-bit step; 384 dimensions are within 0.002.
TOLERANCE = {"flat": 1e-5, "ivf": 0.02, "growing": 0.02}

ids = st.integers(1, 12)
partitions = st.sampled_from(["a", "b", "c"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), partitions, st.lists(ids, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("remove"), partitions, st.lists(ids, max_size=4, unique=True)),
    ),
    max_size=25,
)


def unit(rng: np.random.Generator, count: int, size: int = SIZE) -> np.ndarray:
    rows = rng.normal(size=(count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reshelve(index: PartitionedIndex) -> int:
    """Make every shelf that is due, as a service does in the background."""
    thread, workshop = IndexThread(), Workshop()
    try:
        return asyncio.run(Reshelver(thread, workshop).run(index))
    finally:
        thread.close()
        workshop.close()


class Driven:
    """An index of one kind: shelves that are due are made after each change, or never."""

    def __init__(self, kind: str) -> None:
        limit = {"flat": 10**6, "ivf": 0, "growing": 3}[kind]
        # As many probes as there are lists: what is left is the error of the codes.
        self.index = PartitionedIndex(Growth(flat_limit=limit, factor=1.5, probes=64, aside_limit=1))

    def add(self, partition: str, some: list[int], rows: np.ndarray) -> None:
        self.index.add(partition, some, rows)
        self.settle()

    def remove(self, some: list[int]) -> None:
        self.index.remove(some)
        self.settle()

    def settle(self) -> None:
        if self.index.due() is not None:
            reshelve(self.index)


@pytest.mark.parametrize("kind", sorted(TOLERANCE))
class TestIndexContract:
    @settings(deadline=None, max_examples=25)
    @given(operations=operations, seed=st.integers(0, 100))
    def test_behaves_like_a_dictionary_of_vectors(self, kind: str, operations, seed: int) -> None:
        driven = Driven(kind)
        index: VectorIndex = driven.index
        rng = np.random.default_rng(seed)
        model: dict[int, tuple[str, np.ndarray]] = {}
        for name, partition, some in operations:
            if name == "add":
                rows = unit(rng, len(some))
                driven.add(partition, some, rows)
                model |= {i: (partition, row) for i, row in zip(some, rows, strict=True)}
            else:
                driven.remove(some)
                for i in some:
                    model.pop(i, None)
        assert len(index) == len(model)
        assert index.partitions() == sorted({home for home, _ in model.values()})
        query = unit(rng, 1)[0]
        for partition in "abc":
            mine = {i: float(row @ query) for i, (home, row) in model.items() if home == partition}
            assert index.ids(partition) == set(mine)
            found = index.search(partition, query, 5)
            assert [s for _, s in found] == sorted([s for _, s in found], reverse=True)
            assert [s for _, s in found] == pytest.approx([mine[i] for i, _ in found], abs=TOLERANCE[kind])
            best = sorted(mine.values(), reverse=True)[:5]
            assert [s for _, s in found] == pytest.approx(best, abs=TOLERANCE[kind])

    def test_large_ids(self, kind: str) -> None:
        driven = Driven(kind)
        rows = unit(np.random.default_rng(0), 2)
        driven.add("a", [2**63 - 1, 2**62], rows)
        assert driven.index.search("a", rows[0], 1)[0][0] == 2**63 - 1
        assert 2**62 in driven.index
        driven.remove([2**63 - 1])
        assert driven.index.ids("a") == {2**62}

    def test_refuses_another_dimension(self, kind: str) -> None:
        driven = Driven(kind)
        driven.add("a", [1], np.eye(1, SIZE, dtype=np.float32))
        with pytest.raises(ValueError, match="do not fit"):
            driven.add("a", [2], np.eye(1, SIZE + 1, dtype=np.float32))
        with pytest.raises(ValueError, match="does not fit"):
            driven.index.search("a", np.ones(SIZE + 1, np.float32), 1)
        assert len(driven.index) == 1

    def test_nothing_to_find(self, kind: str) -> None:
        driven = Driven(kind)
        assert driven.index.search("a", np.ones(SIZE, np.float32), 3) == []
        driven.add("a", [1], np.eye(1, SIZE, dtype=np.float32))
        assert driven.index.search("a", np.ones(SIZE, np.float32), 0) == []

    def test_finds_edits_and_names_their_true_similarity(self, kind: str) -> None:
        rng = np.random.default_rng(5)
        stored = sessions(rng, 4000)
        driven = Driven(kind)
        driven.index.growth = Growth(flat_limit={"flat": 10**6, "ivf": 0, "growing": 1000}[kind], probes=16)
        numbers = list(range(1, 4001))
        for start in range(0, 4000, 500):
            driven.add("a", numbers[start : start + 500], stored[start : start + 500])
        queries = noisy(rng, stored[rng.integers(4000, size=200)], 0.4)
        hits = 0
        for query in queries:
            true = stored @ query
            found = driven.index.search("a", query, 12)
            assert [s for _, s in found] == pytest.approx([true[i - 1] for i, _ in found], abs=0.01)
            hits += int(true.argmax()) + 1 in [i for i, _ in found]
        assert hits >= (200 if kind == "flat" else 198)


def noisy(rng: np.random.Generator, rows: np.ndarray, share: float) -> np.ndarray:
    rows = rows + share * unit(rng, len(rows), rows.shape[1])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sessions(rng: np.random.Generator, count: int, size: int = 128) -> np.ndarray:
    """Unit vectors in groups of about 8 that are close to each other."""
    return noisy(rng, np.repeat(unit(rng, count // 8, size), 8, axis=0), 0.5)


def grown(count: int, **changes: float) -> tuple[PartitionedIndex, np.ndarray]:
    index = PartitionedIndex(Growth(flat_limit=100, **changes))
    rows = sessions(np.random.default_rng(1), count)
    index.add("a", list(range(1, count + 1)), rows)
    return index, rows


def test_a_growing_partition_changes_its_shelf_and_a_shrinking_one_changes_back() -> None:
    index, _ = grown(80)
    assert isinstance(index.shelf("a"), FlatShelf)
    assert index.due() is None
    index, rows = grown(400)
    assert index.due() == "a"
    assert reshelve(index) == 1
    shelf = index.shelf("a")
    assert isinstance(shelf, IvfShelf)
    assert shelf.training.size == 400
    index.add("a", list(range(401, 801)), rows)
    assert index.due() is None
    index.add("a", [801], rows[:1])
    assert reshelve(index) == 1
    assert index.shelf("a").training.size == 801
    index.remove(list(range(50, 802)))
    assert reshelve(index) == 1
    assert isinstance(index.shelf("a"), FlatShelf)
    assert index.ids("a") == set(range(1, 50))
    assert index.search("a", rows[7], 1)[0] == (8, pytest.approx(1.0, abs=0.005))


def test_training_is_the_same_every_time() -> None:
    (one, _), (two, _) = grown(2000), grown(2000)
    reshelve(one)
    reshelve(two)
    first, second = one.shelf("a"), two.shelf("a")
    assert isinstance(first, IvfShelf)
    assert isinstance(second, IvfShelf)
    assert np.array_equal(first.training.centroids, second.training.centroids)


def test_coding_again_changes_nothing() -> None:
    index, rows = grown(1000)
    reshelve(index)
    before = dict(index.search("a", rows[3], 50))
    index.want("a")
    assert reshelve(index) == 1
    after = dict(index.search("a", rows[3], 50))
    same = before.keys() & after.keys()
    assert len(same) > 20
    assert [before[i] for i in same] == pytest.approx([after[i] for i in same], abs=1e-6)


def test_vectors_the_codes_cannot_hold_are_found_and_make_them_wider() -> None:
    index, _ = grown(400, aside_limit=3)
    reshelve(index)
    spikes = np.eye(10, 128, dtype=np.float32)
    index.add("a", [1001, 1002, 1003], spikes[:3])
    assert index.shelf("a").aside == 3
    assert index.search("a", spikes[1], 1)[0] == (1002, pytest.approx(1.0, abs=1e-5))
    index.add("a", list(range(1004, 1011)), spikes[3:])
    assert reshelve(index) == 1
    assert index.shelf("a").aside == 0
    assert index.search("a", spikes[9], 1)[0] == (1010, pytest.approx(1.0, abs=0.02))
    index.remove([1010])
    assert 1010 not in dict(index.search("a", spikes[9], 400))


@pytest.mark.parametrize("start", ["flat", "ivf"])
async def test_changes_during_a_training_are_not_lost(start: str) -> None:
    index, rows = grown(1000)
    thread, workshop = IndexThread(), Workshop()
    reshelver = Reshelver(thread, workshop)
    if start == "ivf":
        await reshelver.run(index)
        index.want("a")
    task = asyncio.create_task(reshelver.run(index))
    rng, alive = np.random.default_rng(2), dict(enumerate(rows, 1))
    while not task.done():
        gone = int(rng.choice(list(alive)))
        await thread.run(index.remove, [gone])
        del alive[gone]
        new = 10_000 + len(alive) + int(rng.integers(10**9))
        alive[new] = noisy(rng, rows[:1], 0.5)[0]
        await thread.run(index.add, "a", [new], alive[new][np.newaxis])
        assert (await thread.search(index.search, "a", alive[new], 1))[0][0] == new
    assert await task >= 1
    assert index.ids("a") == set(alive)
    assert len(index) == len(alive) == len(index.shelf("a"))
    found = [index.search("a", row, 1)[0][0] == number for number, row in list(alive.items())[-100:]]
    assert np.mean(found) > 0.95
    thread.close()
    workshop.close()


async def test_a_partition_that_vanishes_during_its_training_stays_away() -> None:
    index, _ = grown(1000)
    thread, workshop = IndexThread(), Workshop()
    task = asyncio.create_task(Reshelver(thread, workshop).run(index))
    await asyncio.sleep(0.02)
    await thread.run(index.remove, list(range(1, 1001)))
    await thread.run(index.add, "a", [5000], unit(np.random.default_rng(0), 1, 9))
    await task
    assert index.ids("a") == {5000}
    assert index.dimension("a") == 9
    thread.close()
    workshop.close()


async def test_searches_overtake_other_work() -> None:
    thread = IndexThread()
    order: list[str] = []
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    first = asyncio.create_task(thread.run(block))
    await asyncio.sleep(0.05)
    work = [
        thread.copy(order.append, "copy"),
        thread.run(order.append, "change"),
        thread.search(order.append, "search"),
    ]
    rest = [asyncio.create_task(one) for one in work]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(first, *rest)
    assert order == ["search", "change", "copy"]
    thread.close()
