"""Following what other services do to a shared catalogue."""

import asyncio
import logging

import numpy as np

from cache_store.catalogue import Event
from cache_store.parts import Parts
from cache_store.records import parse_embedding
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 1.0


class Follower:
    """Keeps this process's index and RAM tier in step with the catalogue's events, a second behind.

    Events only say where to look: each entry they name is brought in line with the catalogue as it is now, so
    reading an event twice, or one of our own, changes nothing.
    """

    def __init__(self, parts: Parts) -> None:
        """Follow into `parts`."""
        self._parts = parts
        self._seen = 0
        # The loop and the evictor both catch up; an event applied twice would count a use twice.
        self._catching = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow; for a catalogue nobody else writes to there is no need."""
        self._task = asyncio.create_task(self._follow(), name="cache-follower")

    async def restart(self) -> None:
        """Forget what was seen: everything up to now is about to be read from the catalogue itself."""
        async with self._catching:
            self._seen = await self._parts.catalogue.last_event()

    async def close(self) -> None:
        """Stop following."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                await self.catch_up_all()
            except CacheUnavailable as error:
                log.debug("not following: %s", error)

    async def catch_up_all(self) -> None:
        """Apply all events up to now. Raises CacheUnavailable."""
        while await self.catch_up():
            pass

    async def catch_up(self) -> int:
        """Apply the next page of events; return how many there were."""
        async with self._catching:
            async with self._parts.redis():
                events = await self._parts.catalogue.events_after(self._seen)
            if not events:
                return 0
            if events[0].sequence != self._seen + 1:
                self._parts.link.renew("events were missed")
                return 0
            await self._apply(events)
            self._seen = events[-1].sequence
            return len(events)

    async def _apply(self, events: list[Event]) -> None:
        for event in events:
            if event.kind == "evict" and event.level is not None:
                self._parts.ram.discard((event.entry_id, event.level))
        added = sorted({event.entry_id for event in events if event.kind == "add"})
        async with self._parts.redis():
            self._parts.ranking.apply(events, await self._parts.catalogue.states_of(added))
        await self.reconcile(sorted({event.entry_id for event in events if event.kind != "touch"}))

    async def reconcile(self, entry_ids: list[int]) -> None:
        """Index those entries that hold a state, and no others of `entry_ids`."""
        parts = self._parts
        async with parts.redis():
            present = await parts.catalogue.vectors(entry_ids)
        await parts.thread.run(parts.index.remove, sorted(set(entry_ids) - {entry_id for entry_id, _, _ in present}))
        for entry_id, partition, raw in present:
            vector = parse_embedding(raw)
            # An id never changes its meaning, so what is indexed already (our own writes) can stay.
            if vector is None or entry_id in parts.index:
                continue
            try:
                await parts.thread.run(parts.index.add, partition, [entry_id], np.stack([vector]))
            except ValueError:
                log.warning("entry %d does not fit its partition", entry_id)
