"""Following what happens to the catalogue, here or in other services."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

from cache_store.events import Event, HistoryLost, Mark
from cache_store.parts import Parts
from cache_store.replica import Guard, IndexReplica
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 1.0
_SAVE_SECONDS = 30.0
_RANK_SECONDS = 600.0


class Follower:
    """Feeds the index, the RAM tier and the eviction policy with the catalogue's events, a second behind.

    Where they have got to is a `Mark`, whose event must still be in the stream for the next ones to count:
    otherwise everything is brought up anew.
    """

    def __init__(self, parts: Parts, replica: IndexReplica) -> None:
        """Follow into the index's replica, and into the RAM tier and the eviction policy of `parts`."""
        self._parts = parts
        self._replica = replica
        self._mark = Mark()
        self._tasks: list[asyncio.Task[None]] = []
        # The loop and the evictor both catch up; an event applied twice would count a use twice.
        self._turn = asyncio.Lock()
        self._in_step = 0.0
        # Up to which event the eviction policy may know of what happened, whatever the mark.
        self._ranked_at: float = math.inf

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
            settled = self._mark.sequence >= self._ranked_at
            self._mark = await self._replica.recover(self._mark, lambda events: self._learn(events, nullcontext))
            if not settled or self._replica.source != "held":
                self._ranked_at = math.inf
                self._parts.ghosts.clear()  # among the events that were missed may be a deletion
                await self._rank()
            await self._parts.ranking.reconcile(self._parts.catalogue)
            # What a crash made the catalogue forget must not live on here.
            self._parts.ram.clear()
            self._in_step = asyncio.get_running_loop().time()

    async def rerank(self, name: str | None = None) -> None:
        """Tell the eviction policy called `name` (None = as now) anew what is stored. Raises CacheUnavailable."""
        async with self._turn, self._parts.redis(_RANK_SECONDS):
            await self._rank(name)

    async def _rank(self, name: str | None = None) -> None:
        await self._parts.ranking.rebuild(self._parts.catalogue, name)
        # A crash that undoes what the policy saw of the events to come is noticed only after they have been applied.
        self._ranked_at = (await self._parts.catalogue.last_event()).sequence

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
                await self.catch_up_all()
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
            except Exception as error:  # whatever it was, the next round may be spared it
                log.warning("following failed: %s", type(error).__name__)

    async def _follow(self) -> None:
        began = asyncio.get_running_loop().time()
        await self.catch_up_all()
        self._in_step = began

    async def _tend(self) -> None:
        await self._replica.tend(self._mark)

    async def catch_up_all(self) -> None:
        """Apply all events up to now, and not those that come meanwhile. Raises CacheUnavailable."""
        async with self._parts.redis():
            now = (await self._parts.catalogue.last_event()).sequence
        while self.sequence < now and await self.catch_up():
            pass

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
            return len(events)

    async def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "evict" and event.level is not None:
                self._parts.ram.discard((event.entry_id, event.level))
        await self._replica.apply(events, self._parts.redis)
        await self._learn(events, self._parts.redis)

    async def _learn(self, events: Sequence[Event], guard: Guard) -> None:
        """Tell the eviction policy of events that the index has taken in, and move on."""
        if any(event.kind == "evict" and event.detail == "cleared" for event in events):
            self._parts.ghosts.clear()  # somebody wants something forgotten
        added = sorted({event.entry_id for event in events if event.kind == "add"})
        async with guard():
            holdings = await self._parts.catalogue.states_of(added)
        # Last, and at once: should anything before it fail, the events come again, and uses would count twice.
        self._parts.ranking.apply(events, holdings)
        self._mark = events[-1].mark

    async def reconcile(self, entry_ids: Sequence[int]) -> None:
        """Bring the index in line with the catalogue for these entries."""
        await self._replica.reconcile(entry_ids, self._parts.redis)
