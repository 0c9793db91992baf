"""Which texts lie near which, found once per workload: the same for every cache that is tried on it.

A request may resume from any stored generation of a text like its own. Up to `EXACT_TEXTS` distinct texts, every pair
above the floor is found (at most `most` per text and direction). Above that, texts are searched block by block: those
of the last `WINDOW` texts exactly, because sessions make recent ones matter most, older ones in a FAISS IVF index
that is trained again whenever it has doubled. Pairs are looked for backwards in time and then mirrored, for a text
that is asked for again later may resume from one that came after its first appearance.

Similarities are rounded to 1e-5, so that equal vectors are exactly equally similar; of equally similar texts the
later one comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from loadtest.simulator.workload import Floats, Ints, Workload

EXACT_TEXTS = 20_000
WINDOW = 2048
_BLOCK = 1024
_SCALE = 100_000
_PROBES = 16
_SAME = 2 * _SCALE  # a text is nearer to itself than to any other

Keys = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """For each text the texts near it, itself first, then nearest first: rows of unequal length, end to end.

    Attributes:
        starts: where each text's row starts; one more than there are texts.
        texts: the neighbours.
        similarities: their cosines.
        exact: whether every pair above the floor (up to the cap) was looked at.
    """

    starts: NDArray[np.int64]
    texts: Ints
    similarities: Floats
    exact: bool

    @property
    def nearest_earlier(self) -> tuple[Ints, Floats]:
        """For each text its nearest among those that appeared first before it (-1, -1.0 where none is near)."""
        count = len(self.starts) - 1
        rows = np.repeat(np.arange(count, dtype=np.int32), np.diff(self.starts))
        earlier = np.flatnonzero(self.texts < rows)
        found, firsts = np.unique(rows[earlier], return_index=True)
        nearest, similarity = np.full(count, -1, np.int32), np.full(count, -1.0, np.float32)
        nearest[found] = self.texts[earlier[firsts]]
        similarity[found] = self.similarities[earlier[firsts]]
        return nearest, similarity


def find_neighbours(
    workload: Workload, *, floor: float, most: int | None = None, exact: bool | None = None, quiet: bool = True
) -> Neighbours:
    """Find each text's neighbours at or above `floor`.

    Args:
        workload: the texts, by first appearance.
        floor: smallest cosine worth keeping.
        most: neighbours kept per text among earlier ones, and again among later ones; default 256, or 32 at scale.
        exact: compare all pairs; default: up to `EXACT_TEXTS` texts.
        quiet: show no progress bar.
    """
    count = len(workload.vectors)
    exact = count <= EXACT_TEXTS if exact is None else exact
    most = most or (256 if exact else 32)
    blocks = _exact_blocks(workload.vectors) if exact else _indexed_blocks(workload.vectors, most)
    rows: list[Ints] = []
    keys: list[Keys] = []
    for start, found in tqdm(blocks, total=-(-count // _BLOCK), desc="neighbours", unit="block", disable=quiet):
        best = _best(found, most)
        near = (best >> 32) >= round(floor * _SCALE)
        row, _ = np.nonzero(near)
        rows.append((row + start).astype(np.int32))
        keys.append(best[near])
    return _mirrored(workload, np.concatenate(rows), np.concatenate(keys), most, exact)


def _key_of(similarities: Floats, texts: NDArray[np.int64]) -> Keys:
    """One number that orders by similarity, then by the later text."""
    return (np.rint(similarities * _SCALE).astype(np.int64) << 32) | texts


def _exact_blocks(vectors: Floats) -> Iterator[tuple[int, Keys]]:
    for start in range(0, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        yield start, _causal(vectors, start, end, 0)


def _causal(vectors: Floats, start: int, end: int, since: int) -> Keys:
    """Keys of texts `since`.. against those of a block, -1 where they are not earlier."""
    others = np.arange(since, end, dtype=np.int64)
    keys = _key_of(vectors[start:end] @ vectors[since:end].T, others)
    keys[others[np.newaxis] >= np.arange(start, end)[:, np.newaxis]] = -1
    return keys


def _indexed_blocks(vectors: Floats, most: int) -> Iterator[tuple[int, Keys]]:
    older = _Older(vectors)
    for start in range(0, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        since = max(0, start - WINDOW)
        recent = _best(_causal(vectors, start, end, since), most)
        yield start, np.concatenate([recent, older.search(vectors[start:end], since, most)], axis=1)


class _Older:
    """An IVF index of the first texts, trained again whenever it has doubled."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors
        self._index: faiss.IndexIVFFlat | None = None
        self._trained = 0

    def search(self, queries: Floats, count: int, most: int) -> Keys:
        """Keys of the nearest of the first `count` texts, -1 where there are fewer."""
        if count < 2 * WINDOW:
            if not count:
                return np.full((len(queries), 0), -1, np.int64)
            return _best(_key_of(queries @ self._vectors[:count].T, np.arange(count, dtype=np.int64)), most)
        similarities, found = self._grown(count).search(queries, most)
        return np.where(found < 0, -1, _key_of(np.where(found < 0, 0.0, similarities), found))

    def _grown(self, count: int) -> faiss.IndexIVFFlat:
        if self._index is None or count >= 2 * self._trained:
            lists = min(int(2 * count**0.5), count // 40)
            size = self._vectors.shape[1]
            self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, lists, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.niter = 8
            chosen = np.random.default_rng(count).permutation(count)[: 40 * lists]
            self._index.train(self._vectors[np.sort(chosen)])
            self._index.nprobe = _PROBES
            self._trained = count
        if self._index.ntotal < count:
            self._index.add(self._vectors[self._index.ntotal : count])
        return self._index


def _best(keys: Keys, most: int) -> Keys:
    """The `most` greatest keys of each row, greatest first."""
    if keys.shape[1] > most:
        keys = np.partition(keys, keys.shape[1] - most, axis=1)[:, -most:]
    return np.sort(keys, axis=1)[:, ::-1]


def _mirrored(workload: Workload, rows: Ints, keys: Keys, most: int, exact: bool) -> Neighbours:
    """Add each text itself, and those later ones that appeared while it was still asked for."""
    count = len(workload.vectors)
    others = (keys & 0xFFFFFFFF).astype(np.int32)
    levels = keys >> 32
    again = workload.first_seen[rows] < workload.last_seen[others]
    back_rows, back_others, back_levels = _capped(others[again], rows[again], levels[again], most)
    itself = np.arange(count, dtype=np.int32)
    all_rows = np.concatenate([itself, rows, back_rows])
    all_others = np.concatenate([itself, others, back_others])
    all_levels = np.concatenate([np.full(count, _SAME, np.int64), levels, back_levels])
    order = np.lexsort((-all_others, -all_levels, all_rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(all_rows, minlength=count))]).astype(np.int64)
    similarities = np.minimum(all_levels[order] / _SCALE, 1.0).astype(np.float32)
    return Neighbours(starts, all_others[order], similarities, exact)


def _capped(rows: Ints, others: Ints, levels: Keys, most: int) -> tuple[Ints, Ints, Keys]:
    """Keep the `most` nearest of each row."""
    order = np.lexsort((-levels, rows))
    rows, others, levels = rows[order], others[order], levels[order]
    starts = np.searchsorted(rows, rows)
    kept = np.arange(len(rows)) - starts < most
    return rows[kept], others[kept], levels[kept]
