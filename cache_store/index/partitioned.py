"""The index: a shelf per partition, exact while it is small, in trained lists once it is large."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cache_store.index.base import Ids, Shelf
from cache_store.index.flat import FlatShelf
from cache_store.index.ivf import IvfShelf
from cache_store.types import Float32Array

FLAT_LIMIT = 4096
"""Vectors up to which comparing with all of them is as fast: `python -m benchmarks lookup` measures the crossover."""
PROBES = 32
"""Lists a search looks into; among 10^6 vectors the benchmark's sweep finds recall .977 with 16, .991 with 32."""


@dataclass(frozen=True, slots=True)
class Growth:
    """When a partition's shelf is made anew.

    Attributes:
        flat_limit: a flat shelf with more vectors becomes lists; lists with less than half of it become flat again.
        factor: lists are trained again once there are this many times the vectors they were made for.
        probes: lists looked into by a search.
        aside_limit: lists are trained again once more vectors than this, and than 1 %, lie outside their codes.
    """

    flat_limit: int = FLAT_LIMIT
    factor: float = 2.0
    probes: int = PROBES
    aside_limit: int = 256


@dataclass(slots=True)
class Journal:
    """What happens to a partition while its next shelf is made: ids and rows put, or ids removed (rows None)."""

    changes: list[tuple[Ids, Float32Array | None]] = field(default_factory=list)

    def drain(self) -> list[tuple[Ids, Float32Array | None]]:
        """Return what has happened since the last call."""
        drained, self.changes = self.changes, []
        return drained


def replay(shelf: Shelf, changes: list[tuple[Ids, Float32Array | None]]) -> None:
    """Do to `shelf` what a journal says."""
    for ids, rows in changes:
        if rows is None:
            shelf.remove(ids)
        else:
            shelf.put(ids, rows)


class PartitionedIndex:
    """A `VectorIndex` whose partitions each have the shelf that suits their size.

    It never makes a shelf anew by itself, for that takes long: `due` says which partition wants one, and
    `cache_store.index.reshelving` makes it, elsewhere.
    """

    def __init__(self, growth: Growth | None = None) -> None:
        """Start empty."""
        self.growth = growth or Growth()
        self._shelves: dict[str, Shelf] = {}
        self._home: dict[int, str] = {}
        self._journals: dict[str, Journal] = {}
        self._due: dict[str, None] = {}
        self.unconfirmed: set[int] = set()
        """Ids changed since the catalogue's events last named them: a crash of Redis may have undone the change."""

    def add(self, partition: str, ids: Sequence[int], vectors: Float32Array) -> None:
        """See `VectorIndex.add`."""
        rows = np.ascontiguousarray(vectors, np.float32)
        size = self.dimension(partition)
        if rows.ndim != 2 or len(rows) != len(ids) or (size is not None and size != rows.shape[1]):
            raise ValueError("vectors do not fit the partition")
        self.remove([entry_id for entry_id in ids if self._home.get(entry_id, partition) != partition])
        if not ids:
            return
        # Removing may have emptied the partition, so look again.
        shelf = self._shelves.setdefault(partition, FlatShelf(rows.shape[1]))
        numbers = np.asarray(ids, np.int64)
        shelf.put(numbers, rows)
        self._home.update(dict.fromkeys(ids, partition))
        self.unconfirmed.update(ids)
        self._changed(partition, shelf, numbers, rows)

    def remove(self, ids: Sequence[int]) -> None:
        """See `VectorIndex.remove`."""
        by_partition: dict[str, list[int]] = {}
        for entry_id in ids:
            partition = self._home.pop(entry_id, None)
            if partition is not None:
                by_partition.setdefault(partition, []).append(entry_id)
                self.unconfirmed.add(entry_id)
        for partition, gone in by_partition.items():
            shelf, numbers = self._shelves[partition], np.asarray(gone, np.int64)
            shelf.remove(numbers)
            if len(shelf):
                self._changed(partition, shelf, numbers, None)
            else:
                del self._shelves[partition]
                self._journals.pop(partition, None)
                self._due.pop(partition, None)

    def _changed(self, partition: str, shelf: Shelf, ids: Ids, rows: Float32Array | None) -> None:
        journal = self._journals.get(partition)
        if journal is not None:
            journal.changes.append((ids, rows))
        elif self._wants_another(shelf):
            self._due[partition] = None

    def _wants_another(self, shelf: Shelf) -> bool:
        growth, size = self.growth, len(shelf)
        if not isinstance(shelf, IvfShelf):
            return size > growth.flat_limit
        too_many_aside = shelf.aside > max(growth.aside_limit, size // 100)
        return size < growth.flat_limit // 2 or size > growth.factor * shelf.training.size or too_many_aside

    def search(self, partition: str, vector: Float32Array, limit: int) -> list[tuple[int, float]]:
        """See `VectorIndex.search`."""
        shelf = self._shelves.get(partition)
        if shelf is None or limit <= 0:
            return []
        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        if query.shape[1] != shelf.dimension:
            raise ValueError("the vector does not fit the partition")
        ids, scores = shelf.search(query, min(limit, len(shelf)))
        return list(zip(ids.tolist(), np.clip(scores, -1.0, 1.0).tolist(), strict=True))

    def ids(self, partition: str) -> set[int]:
        """See `VectorIndex.ids`."""
        shelf = self._shelves.get(partition)
        return set() if shelf is None else set(shelf.ids().tolist())

    def dimension(self, partition: str) -> int | None:
        """See `VectorIndex.dimension`."""
        shelf = self._shelves.get(partition)
        return None if shelf is None else shelf.dimension

    def partitions(self) -> list[str]:
        """See `VectorIndex.partitions`."""
        return sorted(self._shelves)

    def __contains__(self, entry_id: int) -> bool:
        """See `VectorIndex.__contains__`."""
        return entry_id in self._home

    def __len__(self) -> int:
        """See `VectorIndex.__len__`."""
        return len(self._home)

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, ids and centroids."""
        return sum(shelf.nbytes for shelf in self._shelves.values())

    def shelf(self, partition: str) -> Shelf | None:
        """Return a partition's shelf, or None when it is empty."""
        return self._shelves.get(partition)

    def place(self, partition: str, shelf: Shelf) -> None:
        """Put a whole shelf, of a snapshot, where nothing was."""
        if len(shelf):
            self._shelves[partition] = shelf
            self._home.update(dict.fromkeys(shelf.ids().tolist(), partition))
            if self._wants_another(shelf):
                self._due[partition] = None

    def confirm(self, ids: Iterable[int]) -> None:
        """The catalogue's events have named these ids, and the index is as they say."""
        self.unconfirmed.difference_update(ids)

    def replace(self, other: "PartitionedIndex") -> None:
        """Take over everything `other` holds in place of what this one held."""
        self._shelves, self._home, self._due = other._shelves, other._home, other._due
        self._journals, self.unconfirmed = {}, set()

    def due(self) -> str | None:
        """Return a partition that wants another shelf, or None."""
        return next(iter(self._due), None)

    def want(self, partition: str) -> None:
        """Have a partition's shelf made anew even so."""
        if partition in self._shelves:
            self._due[partition] = None

    def begin(self, partition: str) -> Journal | None:
        """Write down from now on what happens to the partition; None when it is gone."""
        self._due.pop(partition, None)
        if partition not in self._shelves:
            return None
        journal = self._journals[partition] = Journal()
        return journal

    def finish(self, partition: str, journal: Journal, shelf: Shelf) -> bool:
        """Put `shelf`, made since `begin`, in place of the old one; False when that is gone."""
        if self._journals.get(partition) is not journal:
            return False
        replay(shelf, journal.drain())
        del self._journals[partition]
        self._shelves[partition] = shelf
        if self._wants_another(shelf):
            self._due[partition] = None
        return True

    def abandon(self, partition: str, journal: Journal) -> None:
        """Keep the old shelf after all."""
        if self._journals.get(partition) is journal:
            del self._journals[partition]
