"""A shelf for many vectors: 8-bit codes in lists around trained centroids (FAISS IVF)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from cache_store.index.base import Ids, Rows
from cache_store.index.flat import FlatShelf
from cache_store.types import Float32Array

_LISTS_A_PIECE = 4
_POINTS_PER_LIST = 40
_ROUNDS = 10
_SEED = 1234
_MARGIN = 1.25
_LEAST_EFFORT = 48
# The outermost codes mean values half a step, 1/255, beyond the bound.
_HALF_STEP = 1.005


@dataclass(frozen=True, slots=True)
class Training:
    """What a shelf learns from a sample before it holds anything.

    Attributes:
        centroids: float32 [lists, D].
        bound: components from -bound to bound can be coded.
        size: number of vectors it was made for.
        probes: lists looked into by a search.
    """

    centroids: Float32Array
    bound: float
    size: int
    probes: int


def lists_for(size: int) -> int:
    """Return how many lists `size` vectors are parted into: about 4 sqrt(size), a power of two."""
    return int(2 ** round(math.log2(4 * math.sqrt(max(size, 1)))))


def sample_size(size: int) -> int:
    """Return how many vectors of `size` are enough to train with."""
    return min(size, _POINTS_PER_LIST * lists_for(size))


def train(
    sample: Float32Array, size: int, probes: int, *, bound: float = 0.0, largest: float = 0.0, gpu: bool = False
) -> Training:
    """Find centroids for `size` vectors; the same sample gives the same ones.

    Args:
        sample: float32 [n, D], `sample_size(size)` of them.
        size: how many vectors there will be.
        probes: lists looked into by a search.
        bound: of the vectors' present codes, kept if it suffices: coding a decoded vector again then changes nothing.
        largest: component there is, if the sample lacks it.
        gpu: whether k-means runs on a GPU.
    """
    lists = max(1, min(lists_for(size), len(sample)))
    means = faiss.Kmeans(
        sample.shape[1],
        lists,
        niter=_ROUNDS,
        seed=_SEED,
        spherical=True,
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_LIST,
    )
    means.train(sample)
    centroids = np.asarray(means.centroids, np.float32)
    largest = float(np.abs(sample).max(initial=largest))
    if largest > bound * _HALF_STEP:
        bound = min(1.0, _MARGIN * largest)
    return Training(centroids, bound, size, probes)


class IvfShelf:
    """Searches the lists nearest to the query. Vectors its codes cannot hold are kept as they are, aside."""

    def __init__(self, training: Training) -> None:
        """Start empty."""
        self.training = training
        lists, dimension = training.centroids.shape
        # The centroids never change, so a graph, which cannot forget, is no obstacle here.
        self._coarse = faiss.IndexHNSWFlat(dimension, 16, faiss.METRIC_INNER_PRODUCT)
        self._coarse.hnsw.efConstruction = 80
        self._coarse.add(training.centroids)
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._coarse, dimension, lists, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT, False
        )
        # The quantiser learns its range from the least and the largest number it is shown.
        ends = np.array([[-training.bound], [training.bound]], np.float32).repeat(dimension, 1)
        self._index.train(ends)
        self._index.set_direct_map_type(self._index.direct_map.Hashtable)
        self.probe(training.probes)
        self._aside = FlatShelf(dimension)

    def probe(self, lists: int) -> None:
        """Look into that many lists from now on."""
        self._coarse.hnsw.efSearch = max(_LEAST_EFFORT, 2 * lists)
        self._index.nprobe = min(lists, self._index.nlist)

    @property
    def dimension(self) -> int:
        """See `Shelf.dimension`."""
        return int(self._index.d)

    @property
    def nbytes(self) -> int:
        """See `Shelf.nbytes`; without the slack of growing lists and without FAISS' table of ids."""
        each = self._index.code_size + 8
        return int(len(self) * each) + self.training.centroids.nbytes + self._aside.nbytes

    @property
    def aside(self) -> int:
        """How many vectors the codes cannot hold."""
        return len(self._aside)

    def put(self, ids: Ids, rows: Float32Array) -> None:
        """See `Shelf.put`."""
        self.remove(ids)
        fits = np.abs(rows).max(1) <= self.training.bound * _HALF_STEP
        if fits.any():
            self._index.add_with_ids(np.ascontiguousarray(rows[fits]), np.ascontiguousarray(ids[fits]))
        if not fits.all():
            self._aside.put(ids[~fits], rows[~fits])

    def remove(self, ids: Ids) -> None:
        """See `Shelf.remove`."""
        self._index.remove_ids(np.unique(ids))
        if self.aside:
            self._aside.remove(ids)

    def search(self, query: Float32Array, limit: int) -> tuple[Ids, Float32Array]:
        """See `Shelf.search`."""
        scores, ids = self._index.search(query, limit)
        found = ids[0] >= 0
        near, similar = ids[0][found], scores[0][found]
        if self.aside:
            more = self._aside.search(query, limit)
            near, similar = np.concatenate([near, more[0]]), np.concatenate([similar, more[1]])
            best = np.argsort(-similar, kind="stable")[:limit]
            near, similar = near[best], similar[best]
        return near, similar

    def ids(self) -> Ids:
        """See `Shelf.ids`."""
        lists = [self._list_ids(number) for number in range(self._index.nlist)]
        return np.concatenate([*lists, self._aside.ids()])

    def _list_ids(self, number: int) -> Ids:
        lists = self._index.invlists
        size = lists.list_size(number)
        if size == 0:
            return np.empty(0, np.int64)
        ids: Ids = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
        return ids

    def _list_codes(self, number: int) -> Rows:
        lists, width = self._index.invlists, self._index.code_size
        size = lists.list_size(number)
        if size == 0:
            return np.empty((0, width), np.uint8)
        codes: Any = faiss.rev_swig_ptr(lists.get_codes(number), size * width).copy()
        return np.asarray(codes.reshape(size, width), np.uint8)

    def pieces(self) -> Iterator[tuple[Ids, Rows]]:
        """See `Shelf.pieces`; codes, then the float32 rows of what lies aside."""
        for _, _, ids, codes in self.lists():
            if len(ids):
                yield ids, codes
        yield from self.aside_pieces()

    def lists(self) -> Iterator[tuple[int, Ids, Ids, Rows]]:
        """Yield copies of a few lists at a time: the first one's number, their sizes, their ids and their codes."""
        # A list changes only inside itself, so one copied whole misses nothing.
        for start in range(0, self._index.nlist, _LISTS_A_PIECE):
            numbers = range(start, min(start + _LISTS_A_PIECE, self._index.nlist))
            ids = [self._list_ids(number) for number in numbers]
            codes = np.concatenate([self._list_codes(number) for number in numbers])
            yield start, np.array([len(some) for some in ids], np.int64), np.concatenate(ids), codes

    def aside_pieces(self) -> Iterator[tuple[Ids, Rows]]:
        """Yield copies of what lies aside."""
        yield from self._aside.pieces()

    def load_lists(self, start: int, sizes: Ids, ids: Ids, codes: Rows) -> None:
        """Fill lists, empty so far, with what `lists` yielded; call `loaded` after the last ones."""
        if len(codes) != len(ids) or sizes.sum() != len(ids) or codes.shape[1] != self._index.code_size:
            raise ValueError("lists do not fit")
        ends = np.cumsum(sizes)
        for number, (first, end) in enumerate(zip(ends - sizes, ends, strict=True), start):
            if number >= self._index.nlist:
                raise ValueError("more lists than centroids")
            some, theirs = np.ascontiguousarray(ids[first:end]), np.ascontiguousarray(codes[first:end])
            self._index.invlists.add_entries(number, len(some), faiss.swig_ptr(some), faiss.swig_ptr(theirs))

    def loaded(self) -> None:
        """Make what `load_lists` brought searchable. ValueError when an id is there twice."""
        self._index.ntotal = sum(self._index.invlists.list_size(number) for number in range(self._index.nlist))
        if len(np.unique(self.ids())) != len(self):
            raise ValueError("an id is there twice")
        self._index.set_direct_map_type(self._index.direct_map.NoMap)
        self._index.set_direct_map_type(self._index.direct_map.Hashtable)

    def decode(self, rows: Rows) -> Float32Array:
        """See `Shelf.decode`."""
        if rows.dtype == np.float32:
            return rows
        vectors: Float32Array = self._index.sq.decode(np.ascontiguousarray(rows)) if len(rows) else _none(self)
        return vectors

    def __len__(self) -> int:
        """See `Shelf.__len__`."""
        return int(self._index.ntotal) + self.aside


def _none(shelf: IvfShelf) -> Float32Array:
    return np.empty((0, shelf.dimension), np.float32)
