"""Repairs in the background: after a crash, and every hour."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 3600.0
_SOON_SECONDS = 5.0
_AGAIN_SECONDS = 60.0


class Caretaker:
    """Calls `repair` on a timer, and soon after it was asked to."""

    def __init__(self, repair: Callable[[], Awaitable[list[str]]]) -> None:
        """Call `repair`."""
        self._repair = repair
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to wait for the first time."""
        self._task = asyncio.create_task(self._care(), name="cache-caretaker")

    def ask(self) -> None:
        """Have a repair done soon: something has crashed."""
        self._asked.set()

    async def close(self) -> None:
        """Stop; a repair under way is given up between two steps."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _care(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PERIOD_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(_SOON_SECONDS)
            self._asked.clear()
            if not await self._once():
                await asyncio.sleep(_AGAIN_SECONDS)
                self._asked.set()

    async def _once(self) -> bool:
        try:
            await self._repair()
        except CacheUnavailable as error:
            log.debug("a repair was put off: %s", error)
            return False
        except Exception as error:
            log.warning("a repair failed: %s", type(error).__name__)
        return True
