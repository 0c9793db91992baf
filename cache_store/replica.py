"""This process's copy of the index: brought up from a snapshot or the catalogue, then kept up by events."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import numpy as np

from cache_store import recovery
from cache_store.events import Event, HistoryLost, Mark
from cache_store.index import Reshelver, Workshop
from cache_store.index.snapshot import BadSnapshot, Origin, load, save
from cache_store.parts import Parts
from cache_store.records import parse_embedding
from cache_store.types import Float32Array

log = logging.getLogger(__name__)

Guard = Callable[[], AbstractAsyncContextManager[None]]
"""Around calls to the catalogue: the link's, or nothing while a connection is being prepared."""

Learn = Callable[[Sequence[Event]], Awaitable[None]]
"""Told of each page of events once the index has taken it in."""

_ADD = 16
"""Vectors added while a search waits, at most."""
_PAGE = 500
_LEAST_CHANGES = 200
_LEAST_SECONDS = 30.0
# Redis keeps about 100,000 events: a snapshot must not fall behind them.
_MOST_CHANGES = 50_000


class IndexReplica:
    """Brings `Parts.index` in line with the catalogue, and writes it down from time to time."""

    def __init__(self, parts: Parts, path: Path, *, gpu: bool = False) -> None:
        """Keep snapshots at `path`; train on a GPU if `gpu`."""
        self._parts = parts
        self._path = path
        self._workshop = Workshop()
        self._reshelver = Reshelver(parts.thread, self._workshop, gpu=gpu)
        self._store = ""
        self._saved = Mark()
        self._saved_at = time.monotonic()
        self.source = ""
        """How it was last brought up: "held", "snapshot" or "catalogue"."""

    async def recover(self, mark: Mark, learn: Learn) -> Mark:
        """Bring the index up to date after a (re)connection; return the mark it is at.

        Args:
            mark: of the last event that was applied to what the index holds now.
            learn: told of the events that what it holds now is caught up by; of no other way to bring it up.
        """
        store = self._parts.objects.store_id
        if store != self._store:
            self._store, self._saved = "", Mark()
        held = await self._try_held(mark, learn) if self._store else None
        reached = held or await self._try_snapshot(store) or await self._rebuild()
        self._store = store
        return reached

    async def _try_held(self, mark: Mark, learn: Learn) -> Mark | None:
        reached = await self._try_catch_up(mark, learn)
        if reached is None:
            return None
        # Our own changes are in the index before their events are: a crash may have undone them.
        doubtful = sorted(await self._parts.thread.run(self._parts.index.unconfirmed.copy))
        for start in range(0, len(doubtful), _PAGE):
            await self.reconcile(doubtful[start : start + _PAGE], nullcontext)
        self.source = "held"
        return reached

    async def _try_snapshot(self, store: str) -> Mark | None:
        parts = self._parts
        if not self._path.exists():
            return None
        try:
            fresh, origin = await self._workshop.run(load, self._path, parts.index.growth)
        except BadSnapshot as error:
            log.warning("the snapshot of the index is not used: %s", error)
            return None
        if origin.store != store:
            log.info("the snapshot of the index is of another catalogue")
            return None
        await parts.thread.run(parts.index.replace, fresh)
        reached = await self._try_catch_up(Mark(origin.sequence, origin.stamp))
        if reached is not None:
            self._saved, self.source = Mark(origin.sequence, origin.stamp), "snapshot"
        return reached

    async def _try_catch_up(self, mark: Mark, learn: Learn | None = None) -> Mark | None:
        """Apply all events after `mark`; None when they cannot be had."""
        try:
            while events := await self._parts.catalogue.events_after(mark):
                await self.apply(events, nullcontext)
                if learn:
                    await learn(events)
                mark = events[-1].mark
        except HistoryLost as error:
            log.info("the index is not caught up: %s", error)
            return None
        return mark

    async def _rebuild(self) -> Mark:
        parts = self._parts
        mark = await parts.catalogue.last_event()
        fresh = await recovery.rebuild_index(parts.catalogue, parts.index.growth, self._reshelver)
        await parts.thread.run(parts.index.replace, fresh)
        self._saved, self.source = Mark(), "catalogue"
        return mark

    async def apply(self, events: Sequence[Event], guard: Guard) -> None:
        """Bring the entries that `events` name in line with the catalogue as it is now.

        Events only say where to look, so reading one twice, or one of our own, changes nothing.
        """
        await self.reconcile(sorted({event.entry_id for event in events if event.kind != "touch"}), guard)

    async def reconcile(self, entry_ids: Sequence[int], guard: Guard) -> None:
        """Index those of the entries that hold a state, and none of the others."""
        parts = self._parts
        async with guard():
            holding = await parts.catalogue.holding(entry_ids)
            # An id never changes its meaning, so what is indexed already (our own writes) can stay.
            present = await parts.catalogue.vectors([i for i in entry_ids if i in holding and i not in parts.index])
        await parts.thread.run(parts.index.remove, [i for i in entry_ids if i not in holding])
        by_partition: dict[str, list[tuple[int, Float32Array]]] = {}
        for entry_id, partition, raw in present:
            vector = parse_embedding(raw)
            if vector is not None:
                by_partition.setdefault(partition, []).append((entry_id, vector))
        for partition, entries in by_partition.items():
            await self._add(partition, entries)
        await parts.thread.run(parts.index.confirm, entry_ids)

    async def _add(self, partition: str, entries: list[tuple[int, Float32Array]]) -> None:
        parts = self._parts
        size = await parts.thread.run(parts.index.dimension, partition) or len(entries[0][1])
        fitting = [(entry_id, vector) for entry_id, vector in entries if len(vector) == size]
        if len(fitting) < len(entries):
            log.warning("%d entries do not fit their partition", len(entries) - len(fitting))
        for start in range(0, len(fitting), _ADD):
            some = fitting[start : start + _ADD]
            rows = np.stack([vector for _, vector in some])
            await parts.thread.run(parts.index.add, partition, [entry_id for entry_id, _ in some], rows)

    async def tend(self, mark: Mark) -> None:
        """Make the shelves that are due, and a snapshot if enough has changed; `mark` is where the index is."""
        await self._reshelver.run(self._parts.index)
        changes = mark.sequence - self._saved.sequence
        enough = max(_LEAST_CHANGES, len(self._parts.index) // 20)
        rested = time.monotonic() - self._saved_at > _LEAST_SECONDS
        if (changes >= enough and rested) or changes >= _MOST_CHANGES:
            await self.save(mark)

    async def save(self, mark: Mark) -> None:
        """Write a snapshot of what the index holds, `mark` and later; nothing when nothing has changed."""
        if not self._store or mark == self._saved:
            return
        parts, origin = self._parts, Origin(self._store, mark.sequence, mark.stamp)
        self._saved_at = time.monotonic()
        try:
            await save(parts.index, origin, self._path, thread=parts.thread, workshop=self._workshop)
            self._saved = mark
        except OSError as error:
            log.warning("no snapshot of the index was written: %s", error.strerror)

    def close(self) -> None:
        """End the workshop."""
        self._workshop.close()
