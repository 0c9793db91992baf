"""A shelf that compares with every vector: exact, and the fastest while it is small."""

from collections.abc import Iterator

import faiss
import numpy as np

from cache_store.index.base import Ids, Rows
from cache_store.types import Float32Array

_PIECE = 1024
_FIRST_ROOM = 16


class FlatShelf:
    """Rows side by side in one array, which FAISS scans; the last row fills the gap a removed one leaves."""

    def __init__(self, dimension: int) -> None:
        """Start empty."""
        self._rows = np.empty((0, dimension), np.float32)
        self._ids = np.empty(0, np.int64)
        self._count = 0

    @property
    def dimension(self) -> int:
        """See `Shelf.dimension`."""
        return int(self._rows.shape[1])

    @property
    def nbytes(self) -> int:
        """See `Shelf.nbytes`."""
        return self._rows.nbytes + self._ids.nbytes

    def put(self, ids: Ids, rows: Float32Array) -> None:
        """See `Shelf.put`."""
        self.remove(ids)
        count = self._count + len(ids)
        if count > len(self._ids):
            self._make_room(max(_FIRST_ROOM, count, len(self._ids) * 3 // 2))
        self._rows[self._count : count] = rows
        self._ids[self._count : count] = ids
        self._count = count

    def _make_room(self, room: int) -> None:
        rows, ids = np.empty((room, self.dimension), np.float32), np.empty(room, np.int64)
        rows[: self._count], ids[: self._count] = self._rows[: self._count], self._ids[: self._count]
        self._rows, self._ids = rows, ids

    def remove(self, ids: Ids) -> None:
        """See `Shelf.remove`."""
        gone = np.flatnonzero(np.isin(self._ids[: self._count], ids))
        for place in gone[::-1]:
            self._count -= 1
            self._rows[place] = self._rows[self._count]
            self._ids[place] = self._ids[self._count]

    def search(self, query: Float32Array, limit: int) -> tuple[Ids, Float32Array]:
        """See `Shelf.search`."""
        limit = min(limit, self._count)
        if limit == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores, places = faiss.knn(query, self._rows[: self._count], limit, metric=faiss.METRIC_INNER_PRODUCT)
        return self._ids[places[0]], scores[0]

    def ids(self) -> Ids:
        """See `Shelf.ids`."""
        return self._ids[: self._count].copy()

    def pieces(self) -> Iterator[tuple[Ids, Rows]]:
        """See `Shelf.pieces`."""
        # From the end: a removal moves the last row forward, to where it has yet to be read (maybe again).
        end = self._count
        while end > 0:
            start = max(0, end - _PIECE)
            shown = min(end, self._count)
            yield self._ids[start:shown].copy(), self._rows[start:shown].copy()
            end = start

    def decode(self, rows: Rows) -> Float32Array:
        """See `Shelf.decode`."""
        return rows

    def __len__(self) -> int:
        """See `Shelf.__len__`."""
        return self._count
