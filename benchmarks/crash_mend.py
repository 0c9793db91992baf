"""Bringing a store back to rest after a crash."""

import asyncio
from collections.abc import Awaitable, Callable

from cache_store import CacheStore

POLL_SECONDS = 0.01


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `reached` says so."""
    while True:
        if await reached():
            return
        await asyncio.sleep(POLL_SECONDS)


async def mend(store: CacheStore) -> tuple[list[str], list[str]]:
    """Repair a store that nobody writes to; return the integrity problems found, and those that are left."""
    await store.flush()
    # Nobody else writes either: the youngest object that belongs to nothing is no write under way, and may go.
    store._upkeep._alone = True
    return await store.repair(), await store.check_integrity(scrub=True)
