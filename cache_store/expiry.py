"""Lifetimes: the catalogue's clock, kept steady, and the collector of what is past its time.

The clock is that of the Redis host, so that services whose own clocks differ agree. Every few seconds each service
compares what it says with a clock of its own that nobody can set. Where the host's clock has jumped meanwhile, forth
or back, the jump is taken out of the catalogue's time: nothing ages, or grows younger, by a jump that a service sees.
Until the jump is noticed, answers may be missing for these few seconds, but nothing is forgotten: the collector looks
at the clock first. Time in which no service was connected cannot be told from a jump, and counts in full.
"""

import asyncio
import logging
import time
from collections import OrderedDict

from cache_store.eviction import Remover
from cache_store.parts import Parts
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 2.0
_BUSY_SECONDS = 0.1
_BATCH = 200
_LOCKED_BATCH = 16
JUMP_SECONDS = 5.0
"""What a clock may be out by between two looks without having jumped."""
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def steady() -> float:
    """Return the seconds of a clock that nobody can set and that, where it can, goes on while the machine sleeps."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


class CatalogueClock:
    """Watches the catalogue's time for jumps."""

    def __init__(self, parts: Parts) -> None:
        """Watch that of `parts`."""
        self._parts = parts
        self._last: tuple[float, float, float] | None = None

    def restart(self) -> None:
        """Forget what was seen: the connection is new, perhaps to another host."""
        self._last = None

    async def watch(self) -> float:
        """Look at the clock, take back a jump, return by how many seconds it had jumped. Raises CacheUnavailable."""
        before = steady()
        async with self._parts.redis():
            now, offset = await self._parts.catalogue.time()
            after = steady()
            jump = self._jump(now, before, after)
            if jump and await self._parts.catalogue.shift_time(offset, -jump):
                log.warning("the clock of the Redis host jumped by %.0f seconds, which lifetimes leave out", jump)
                now -= jump
            elif jump:  # another service was quicker
                self._last = None
                return jump
        self._last = (now, before, after)
        return jump

    def _jump(self, now: float, before: float, after: float) -> float:
        if self._last is None:
            return 0.0
        then, then_before, then_after = self._last
        earliest, latest = then + before - then_after, then + after - then_before
        if earliest - JUMP_SECONDS <= now <= latest + JUMP_SECONDS:
            return 0.0
        return now - (earliest + latest) / 2


class Lifetimes:
    """How long entries that were found have left, so that loading one need not ask the catalogue."""

    def __init__(self, size: int = 10_000) -> None:
        """Know up to `size` entries, those found last."""
        self._size = size
        self._ends: OrderedDict[int, float] = OrderedDict()

    def note(self, entry_id: int, seconds: float) -> None:
        """Note what an entry has left now."""
        self._ends[entry_id] = steady() + seconds
        self._ends.move_to_end(entry_id)
        if len(self._ends) > self._size:
            self._ends.popitem(last=False)

    def alive(self, entry_id: int) -> bool | None:
        """Return whether an entry has time left; None when it is not known."""
        end = self._ends.get(entry_id)
        return None if end is None else end > steady()


class Collector:
    """Keeps the clock steady and forgets what is past its time, a bounded batch at a time."""

    def __init__(self, parts: Parts, remover: Remover, exclusive: asyncio.Lock) -> None:
        """Work on `parts` while holding `exclusive`, the writer's lock."""
        self.clock = CatalogueClock(parts)
        self._parts = parts
        self._remover = remover
        self._exclusive = exclusive
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to collect."""
        self._task = asyncio.create_task(self._collect(), name="cache-collector")

    async def close(self) -> None:
        """Stop collecting."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _collect(self) -> None:
        pause = _PERIOD_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                pause = _BUSY_SECONDS if await self.collect() == _BATCH else _PERIOD_SECONDS
            except CacheUnavailable as error:
                log.debug("not collecting: %s", error)
            except Exception as error:
                log.warning("collecting what is past its time failed: %s", type(error).__name__)

    async def collect(self) -> int:
        """Forget one batch; return how many entries were past their time. Raises CacheUnavailable."""
        if await self.clock.watch():
            return 0
        async with self._parts.redis():
            expired = await self._parts.catalogue.expired(_BATCH)
        for start in range(0, len(expired), _LOCKED_BATCH):
            async with self._exclusive:
                for entry_id in expired[start : start + _LOCKED_BATCH]:
                    await self._remover.clear_entry(entry_id, "expired")
        return len(expired)
