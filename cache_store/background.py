"""Short pieces of work that nobody waits for."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)


class Background:
    """Runs coroutines as tasks; what goes wrong in them is logged, never raised."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` soon."""
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait until all is done."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is not done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except CacheUnavailable as error:
        log.debug("background work was put off: %s", error)
    except Exception as error:
        log.warning("background work failed: %s", type(error).__name__)
