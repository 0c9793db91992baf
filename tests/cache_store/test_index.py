"""One contract for every vector index."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_store.index import FlatIndex, VectorIndex

SIZE = 6
INDEXES: dict[str, type[FlatIndex]] = {"flat": FlatIndex}

ids = st.integers(1, 12)
partitions = st.sampled_from(["a", "b", "c"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), partitions, st.lists(ids, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("remove"), partitions, st.lists(ids, max_size=4, unique=True)),
    ),
    max_size=25,
)


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, SIZE)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", sorted(INDEXES))
class TestIndexContract:
    @settings(deadline=None)
    @given(operations=operations, seed=st.integers(0, 100))
    def test_behaves_like_a_dictionary_of_vectors(self, kind: str, operations, seed: int) -> None:
        index: VectorIndex = INDEXES[kind]()
        rng = np.random.default_rng(seed)
        model: dict[int, tuple[str, np.ndarray]] = {}
        for name, partition, some in operations:
            if name == "add":
                rows = unit(rng, len(some))
                index.add(partition, some, rows)
                model |= {i: (partition, row) for i, row in zip(some, rows, strict=True)}
            else:
                index.remove(some)
                for i in some:
                    model.pop(i, None)
        assert len(index) == len(model)
        assert index.partitions() == sorted({home for home, _ in model.values()})
        query = unit(rng, 1)[0]
        for partition in "abc":
            mine = {i: float(row @ query) for i, (home, row) in model.items() if home == partition}
            assert index.ids(partition) == set(mine)
            found = index.search(partition, query, 5)
            assert [i for i, _ in found] == sorted(mine, key=lambda i: -mine[i])[:5]
            assert [s for _, s in found] == pytest.approx(sorted(mine.values(), reverse=True)[:5], abs=1e-5)

    def test_large_ids(self, kind: str) -> None:
        index: VectorIndex = INDEXES[kind]()
        rows = unit(np.random.default_rng(0), 2)
        index.add("a", [2**63 - 1, 2**62], rows)
        assert index.search("a", rows[0], 1)[0][0] == 2**63 - 1
        assert 2**62 in index
        index.remove([2**63 - 1])
        assert index.ids("a") == {2**62}

    def test_refuses_another_dimension(self, kind: str) -> None:
        index: VectorIndex = INDEXES[kind]()
        index.add("a", [1], np.eye(1, SIZE, dtype=np.float32))
        with pytest.raises(ValueError, match="do not fit"):
            index.add("a", [2], np.eye(1, SIZE + 1, dtype=np.float32))
        with pytest.raises(ValueError, match="does not fit"):
            index.search("a", np.ones(SIZE + 1, np.float32), 1)
        assert len(index) == 1

    def test_nothing_to_find(self, kind: str) -> None:
        index: VectorIndex = INDEXES[kind]()
        assert index.search("a", np.ones(SIZE, np.float32), 3) == []
        index.add("a", [1], np.eye(1, SIZE, dtype=np.float32))
        assert index.search("a", np.ones(SIZE, np.float32), 0) == []
