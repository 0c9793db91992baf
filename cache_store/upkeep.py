"""What keeps a store in order beside its writes: collecting, sweeping, forgetting on purpose, repairing."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from cache_store import recovery
from cache_store.caretaker import Caretaker
from cache_store.data_dir import RunMarker
from cache_store.eviction import Evictor, Remover
from cache_store.expiry import Collector
from cache_store.follower import Follower
from cache_store.forgetting import Forgetter
from cache_store.integrity import Inspector, Manner
from cache_store.parts import Parts
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_RECONNECT_SECONDS = 60.0
_ORPHAN_SECONDS = 3600.0
_REPAIR_PAUSE_SECONDS = 0.02
_MOST_LOGGED = 20
_EVICT_AGAIN_SECONDS = 5.0


class Upkeep:
    """Background work on a store, and the work that needs its writer at rest.

    Attributes:
        forgetter: forgets selections.
        clock: the catalogue's.
        repairs: disagreements mended so far.
    """

    def __init__(
        self,
        parts: Parts,
        remover: Remover,
        follower: Follower,
        exclusive: asyncio.Lock,
        *,
        alone: bool,
        marker: RunMarker,
    ) -> None:
        """Keep `parts` in order.

        Args:
            parts: of the store.
            remover: forgets states, pictures and entries.
            follower: brings the index in line.
            exclusive: the writer's lock.
            alone: whether catalogue and objects belong to this service.
            marker: tells that the service before crashed.
        """
        self.forgetter = Forgetter(parts, remover, exclusive)
        self.repairs = 0
        self._parts = parts
        self._remover = remover
        self._follower = follower
        self._exclusive = exclusive
        self._alone = alone
        self._marker = marker
        self._collector = Collector(parts, remover, exclusive)
        self.clock = self._collector.clock
        self._caretaker = Caretaker(self._repair_slowly)
        self._late: asyncio.Task[None] | None = None
        self._opened = time.time()
        self._connected = False
        self._sweeping = asyncio.Lock()
        self._swept = ""  # the catalogue whose start was swept

    def start(self) -> None:
        """Begin to collect and to repair."""
        if self._marker.set():
            self._caretaker.ask()
        self._collector.start()
        self._caretaker.start()

    async def close(self) -> None:
        """Stop all of it."""
        if self._late:
            self._late.cancel()
            await asyncio.gather(self._late, return_exceptions=True)
        await self._caretaker.close()
        await self._collector.close()

    async def sweep(self) -> None:
        """After a connection: delete objects of writes that were interrupted; after later ones, have all repaired."""
        if self._connected:  # the connection was lost: Redis may have been, too
            self._caretaker.ask()
        self._connected = True
        async with self._sweeping:
            store_id = self._parts.objects.store_id
            if self._swept == store_id or not await self._parts.link.wait_available(_CONNECT_SECONDS):
                return
            older_than = self._opened if self._alone and not self._swept else time.time() - _ORPHAN_SECONDS
            await recovery.sweep(self._parts, self._exclusive, whole=self._alone, older_than=older_than)
            self._swept = store_id

    async def evict(self, evictor: Evictor) -> None:
        """Evict a batch behind a write; the rest, and what leases keep above the budget, goes later."""
        wait = await evictor.run()
        if wait is not None and (self._late is None or self._late.done()):
            self._late = asyncio.create_task(self._evict_late(evictor, wait), name="late-eviction")

    async def _evict_late(self, evictor: Evictor, wait: float | None) -> None:
        while wait is not None:
            await asyncio.sleep(wait)
            try:
                async with self._exclusive:  # writes that wait for it take turns with these batches
                    wait = await evictor.run()
            except CacheUnavailable as error:
                log.debug("late eviction was put off: %s", error)
                wait = _EVICT_AGAIN_SECONDS
            except Exception as error:
                log.warning("late eviction failed: %s", type(error).__name__)
                wait = _EVICT_AGAIN_SECONDS

    async def check(self, *, scrub: bool) -> list[str]:
        """See `CacheStore.check_integrity`."""
        async with self._exclusive:
            return await self._inspector(nullcontext, Manner(scrub=scrub)).run()

    async def repair(self, *, scrub: bool) -> list[str]:
        """See `CacheStore.repair`."""
        return await self._repair(Manner(mend=True, scrub=scrub))

    async def _repair_slowly(self) -> list[str]:
        await self._parts.link.wait_available(_RECONNECT_SECONDS)
        return await self._repair(Manner(mend=True, pause=_REPAIR_PAUSE_SECONDS))

    async def _repair(self, manner: Manner) -> list[str]:
        older_than = None if self._alone else time.time() - _ORPHAN_SECONDS
        mended = await self._inspector(lambda: self._exclusive, replace(manner, older_than=older_than)).run()
        self.repairs += len(mended)
        for problem in mended[:_MOST_LOGGED]:
            log.warning("mended: %s", problem)
        return mended

    def _inspector(self, turn: Callable[[], AbstractAsyncContextManager[object]], manner: Manner) -> Inspector:
        return Inspector(self._parts, self._remover, self._follower, turn, manner)
