"""Making a partition's next shelf while searches go on with the old one."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from cache_store.index.base import Ids, Rows, Shelf
from cache_store.index.flat import FlatShelf
from cache_store.index.ivf import IvfShelf, Training, sample_size, train
from cache_store.index.partitioned import Journal, PartitionedIndex, replay
from cache_store.index.thread import IndexThread, Workshop
from cache_store.types import Float32Array

log = logging.getLogger(__name__)

_SEED = 1234
_FEW = 4
_ROUNDS = 100
_BATCH = 512


async def pieces(thread: IndexThread, shelf: Shelf) -> AsyncIterator[tuple[Ids, Rows]]:
    """Yield the pieces of a shelf, each copied by the thread that owns it."""
    iterator = await thread.copy(shelf.pieces)
    while (piece := await thread.copy(next, iterator, None)) is not None:
        yield piece


class Reshelver:
    """Makes the shelves an index is due, one after another.

    The owner's thread copies the old shelf out in small pieces; a workshop trains and fills the new one from
    them; what changes meanwhile is written into a journal, replayed before the swap.
    """

    def __init__(self, thread: IndexThread, workshop: Workshop, *, gpu: bool = False) -> None:
        """Work for the index that `thread` owns; with `gpu`, train there."""
        self._thread = thread
        self._workshop = workshop
        self._gpu = gpu

    async def run(self, index: PartitionedIndex) -> int:
        """Make shelves until none is due; return how many were made."""
        made = 0
        while (partition := await self._thread.run(index.due)) is not None:
            made += await self._remake(index, partition)
        return made

    async def _remake(self, index: PartitionedIndex, partition: str) -> bool:
        started = time.monotonic()
        # In one go: between the two the partition might be emptied and filled anew.
        old, journal = await self._thread.run(lambda: (index.shelf(partition), index.begin(partition)))
        if old is None or journal is None:
            return False
        try:
            new = await self._make(index, old, journal)
            done = await self._thread.run(index.finish, partition, journal, new)
        except BaseException:
            await asyncio.shield(self._thread.run(index.abandon, partition, journal))
            raise
        # Giving back that much memory takes a while: not on a thread others wait for.
        holder = [old]
        del old
        await self._workshop.run(holder.clear)
        log.info("a partition of %d vectors was shelved anew in %.1f s", len(new), time.monotonic() - started)
        return done

    async def _make(self, index: PartitionedIndex, old: Shelf, journal: Journal) -> Shelf:
        if len(old) <= index.growth.flat_limit:
            new: Shelf = FlatShelf(old.dimension)
        else:
            training = await self._train(old, index.growth.probes)
            new = await self._workshop.run(IvfShelf, training)
        async for ids, rows in pieces(self._thread, old):
            await self._workshop.run(_fill, new, old.decode, ids, rows)
        for _ in range(_ROUNDS):
            if len(journal.changes) <= _FEW:
                break
            changes = await self._thread.run(journal.drain)
            await self._workshop.run(replay, new, changes)
        return new

    async def _train(self, old: Shelf, probes: int) -> Training:
        size = len(old)
        chance = min(1.0, 1.05 * sample_size(size) / size)
        rng = np.random.default_rng(_SEED)
        bound, largest = (old.training.bound if isinstance(old, IvfShelf) else 0.0), 0.0
        sample: list[Float32Array] = []
        async for _, rows in pieces(self._thread, old):
            taken = rows[rng.random(len(rows)) < chance] if chance < 1 else rows
            sample.append(await self._workshop.run(old.decode, taken))
            if rows.dtype == np.float32:  # not coded yet: the codes must hold all of them
                largest = float(np.abs(rows).max(initial=largest))
        vectors = np.concatenate(sample)
        return await self._workshop.run(train, vectors, size, probes, bound=bound, largest=largest, gpu=self._gpu)


def _fill(shelf: Shelf, decode: Callable[[Any], Float32Array], ids: Ids, rows: Rows) -> None:
    for start in range(0, len(ids), _BATCH):
        shelf.put(ids[start : start + _BATCH], decode(rows[start : start + _BATCH]))
