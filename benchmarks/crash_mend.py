"""Bringing a store back to rest after a crash."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from cache_store import CacheStore, recovery

POLL_SECONDS = 0.03


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `reached` says so."""
    while True:
        if await reached():
            return
        await asyncio.sleep(POLL_SECONDS)


async def mend(store: CacheStore) -> list[str]:
    """Repair, and return the integrity problems that are left."""
    await store.flush()
    # Nobody writes now: every object that the catalogue does not know was left behind by an interrupted write.
    await recovery.sweep(store._parts, whole=False, older_than=time.time() + 60.0)
    return await store.check_integrity()
