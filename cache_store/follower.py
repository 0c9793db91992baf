"""Following what happens to the catalogue, here or in other services."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cache_store.catalogue import Event, HistoryLost, Mark
from cache_store.parts import Parts
from cache_store.replica import IndexReplica
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 1.0
_SAVE_SECONDS = 30.0


class Consumer(Protocol):
    """Keeps something in this process in step with the catalogue's events."""

    async def apply(self, events: Sequence[Event], guard: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Take note of the next events, each of which comes at least once, in order."""


class Follower:
    """Feeds the index, the RAM tier and other consumers with the catalogue's events, a second behind.

    Where they have got to is a `Mark`, whose event must still be in the stream for the next ones to count:
    otherwise everything is brought up anew.
    """

    def __init__(self, parts: Parts, replica: IndexReplica, consumers: Sequence[Consumer] = ()) -> None:
        """Follow into the index's replica and the RAM tier of `parts`, and into further `consumers`."""
        self._parts = parts
        self._replica = replica
        self._consumers = consumers
        self._mark = Mark()
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = asyncio.Lock()
        self._in_step = 0.0

    def start(self) -> None:
        """Begin to follow, and to keep the index in shape."""
        self._in_step = asyncio.get_running_loop().time()
        self._tasks = [
            asyncio.create_task(self._repeat(self._follow), name="cache-follower"),
            asyncio.create_task(self._repeat(self._tend), name="index-keeper"),
        ]

    @property
    def sequence(self) -> int:
        """Number of the last event applied."""
        return self._mark.sequence

    def lag_seconds(self, last_event: int) -> float:
        """Return how long ago everything had been applied, 0 when `last_event` is."""
        return 0.0 if last_event <= self.sequence else asyncio.get_running_loop().time() - self._in_step

    async def recover(self) -> None:
        """After a (re)connection, bring up what is kept in memory; outside the link's guard."""
        async with self._turn:
            self._mark = await self._replica.recover(self._mark)
            # What a crash made the catalogue forget must not live on here.
            self._parts.ram.clear()
            self._in_step = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Stop following, and write the index down."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._tasks:
            return
        self._tasks = []
        try:
            async with asyncio.timeout(_SAVE_SECONDS):
                await self._follow()
                await self._replica.save(self._mark)
        except (TimeoutError, CacheUnavailable) as error:
            log.debug("no snapshot of the index at the end: %s", error)

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                await work()
            except CacheUnavailable as error:
                log.debug("not following: %s", error)

    async def _follow(self) -> None:
        while await self.catch_up():
            pass
        self._in_step = asyncio.get_running_loop().time()

    async def _tend(self) -> None:
        await self._replica.tend(self._mark)

    async def catch_up(self) -> int:
        """Apply the next page of events; return how many there were."""
        async with self._turn:
            async with self._parts.redis():
                try:
                    events = await self._parts.catalogue.events_after(self._mark)
                except HistoryLost as error:
                    self._parts.link.renew(str(error))
                    raise CacheUnavailable("events were missed") from error
            if events:
                await self._apply(events)
                self._mark = events[-1].mark
            return len(events)

    async def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "evict" and event.level is not None:
                self._parts.ram.discard((event.entry_id, event.level))
        for consumer in (self._replica, *self._consumers):
            await consumer.apply(events, self._parts.redis)

    async def reconcile(self, entry_ids: Sequence[int]) -> None:
        """Bring the index in line with the catalogue for these entries."""
        await self._replica.reconcile(entry_ids, self._parts.redis)
