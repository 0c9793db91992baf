"""What a vector index must do, and what one partition's shelf of vectors must."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache_store.types import Float32Array

Ids = NDArray[np.int64]
Rows = NDArray[Any]
"""Vectors as a shelf keeps them: float32, or 8-bit codes."""


class VectorIndex(Protocol):
    """Unit vectors under stable positive 63-bit ids, in partitions that never see each other.

    Adding an id again replaces its vector; removing an unknown id does nothing; an empty partition is gone.
    All vectors of a partition have one dimension. Not thread-safe: one thread owns it.
    """

    def add(self, partition: str, ids: Sequence[int], vectors: Float32Array) -> None:
        """Add vectors [n, D]; ValueError when D is not the partition's."""

    def remove(self, ids: Sequence[int]) -> None:
        """Remove vectors, wherever they are."""

    def search(self, partition: str, vector: Float32Array, limit: int) -> list[tuple[int, float]]:
        """Return up to `limit` (id, cosine similarity), best first; ValueError when D is not the partition's.

        A large partition answers approximately: it may miss a neighbour, and a similarity is off by less than 0.005.
        """

    def ids(self, partition: str) -> set[int]:
        """Return the ids in a partition."""

    def dimension(self, partition: str) -> int | None:
        """Return D of a partition's vectors, or None when it is empty."""

    def partitions(self) -> list[str]:
        """Return the names of all partitions that hold something."""

    def __contains__(self, entry_id: int) -> bool:
        """Return whether some partition holds the id."""

    def __len__(self) -> int:
        """Return the number of vectors."""


class Shelf(Protocol):
    """The vectors of one partition."""

    @property
    def dimension(self) -> int:
        """D of its vectors."""

    @property
    def nbytes(self) -> int:
        """Bytes its vectors and ids take, as FAISS and NumPy count them."""

    def put(self, ids: Ids, rows: Float32Array) -> None:
        """Add vectors; those it has already under these ids are replaced."""

    def remove(self, ids: Ids) -> None:
        """Remove vectors; unknown ids are ignored."""

    def search(self, query: Float32Array, limit: int) -> tuple[Ids, Float32Array]:
        """Return ids and inner products for one query [1, D], best first."""

    def ids(self) -> Ids:
        """Return all ids, in no order."""

    def pieces(self) -> Iterator[tuple[Ids, Rows]]:
        """Yield copies of all that is there, in small pieces.

        The shelf may change between two pieces. What was there from the first to the last piece is then yielded
        at least once; what came or went meanwhile may be or not be.
        """

    def decode(self, rows: Rows) -> Float32Array:
        """Return the vectors of a piece's rows; may be called in another thread."""

    def __len__(self) -> int:
        """Return the number of vectors."""
