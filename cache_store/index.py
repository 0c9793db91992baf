"""Vector indexes: the nearest prompts inside one signature's partition."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

import faiss
import numpy as np

from cache_store.types import Float32Array

P = ParamSpec("P")
T = TypeVar("T")


class VectorIndex(Protocol):
    """Unit vectors under stable positive 63-bit ids, in partitions that never see each other.

    Adding an id again replaces its vector; removing an unknown id does nothing; an empty partition is gone.
    All vectors of a partition have one dimension. Not thread-safe.
    """

    def add(self, partition: str, ids: Sequence[int], vectors: Float32Array) -> None:
        """Add vectors [n, D]; ValueError when D is not the partition's."""

    def remove(self, ids: Sequence[int]) -> None:
        """Remove vectors, wherever they are."""

    def search(self, partition: str, vector: Float32Array, limit: int) -> list[tuple[int, float]]:
        """Return up to `limit` (id, cosine similarity), best first; ValueError when D is not the partition's."""

    def ids(self, partition: str) -> set[int]:
        """Return the ids in a partition."""

    def partitions(self) -> list[str]:
        """Return the names of all partitions that hold something."""

    def __contains__(self, entry_id: int) -> bool:
        """Return whether some partition holds the id."""

    def __len__(self) -> int:
        """Return the number of vectors."""


class FlatIndex:
    """Exact inner-product search with FAISS, one flat index per partition."""

    def __init__(self) -> None:
        """Start empty."""
        self._indexes: dict[str, Any] = {}
        self._home: dict[int, str] = {}

    def add(self, partition: str, ids: Sequence[int], vectors: Float32Array) -> None:
        """See `VectorIndex.add`."""
        rows = np.ascontiguousarray(vectors, np.float32)
        index = self._indexes.get(partition)
        if rows.ndim != 2 or len(rows) != len(ids) or (index is not None and index.d != rows.shape[1]):
            raise ValueError("vectors do not fit the partition")
        self.remove([entry_id for entry_id in ids if entry_id in self._home])
        if not ids:
            return
        # Removing may have emptied the partition, so look again.
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexes[partition] = faiss.IndexIDMap2(faiss.IndexFlatIP(rows.shape[1]))
        index.add_with_ids(rows, np.asarray(ids, np.int64))
        self._home.update(dict.fromkeys(ids, partition))

    def remove(self, ids: Sequence[int]) -> None:
        """See `VectorIndex.remove`."""
        by_partition: dict[str, list[int]] = {}
        for entry_id in ids:
            partition = self._home.pop(entry_id, None)
            if partition is not None:
                by_partition.setdefault(partition, []).append(entry_id)
        for partition, gone in by_partition.items():
            self._indexes[partition].remove_ids(np.asarray(gone, np.int64))
            if self._indexes[partition].ntotal == 0:
                del self._indexes[partition]

    def search(self, partition: str, vector: Float32Array, limit: int) -> list[tuple[int, float]]:
        """See `VectorIndex.search`."""
        index = self._indexes.get(partition)
        if index is None or limit <= 0:
            return []
        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        if query.shape[1] != index.d:
            raise ValueError("the vector does not fit the partition")
        scores, ids = index.search(query, min(limit, index.ntotal))
        return [(int(i), float(np.clip(s, -1.0, 1.0))) for i, s in zip(ids[0], scores[0], strict=True) if i >= 0]

    def ids(self, partition: str) -> set[int]:
        """See `VectorIndex.ids`."""
        index = self._indexes.get(partition)
        return set() if index is None else {int(i) for i in faiss.vector_to_array(index.id_map)}

    def dimension(self, partition: str) -> int | None:
        """Return D of a partition's vectors, or None when it is empty."""
        index = self._indexes.get(partition)
        return None if index is None else int(index.d)

    def replace(self, other: "FlatIndex") -> None:
        """Take over everything `other` holds in place of what this one held."""
        self._indexes, self._home = other._indexes, other._home

    def partitions(self) -> list[str]:
        """See `VectorIndex.partitions`."""
        return sorted(self._indexes)

    def __contains__(self, entry_id: int) -> bool:
        """See `VectorIndex.__contains__`."""
        return entry_id in self._home

    def __len__(self) -> int:
        """See `VectorIndex.__len__`."""
        return len(self._home)


class IndexThread:
    """The one thread that may touch an index, so that the event loop never waits for a search."""

    def __init__(self) -> None:
        """Start no thread yet; the first call does."""
        # OpenMP's thread count belongs to the calling thread: set here, the rest of the process keeps its own.
        self._executor = ThreadPoolExecutor(1, "headstart-index", initializer=lambda: faiss.omp_set_num_threads(1))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on the index's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the thread once it has finished what it was given."""
        self._executor.shutdown(wait=False)
