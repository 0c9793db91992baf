"""Writing behind the answer: a bounded queue and one worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class WriteBehind(Generic[T]):
    """Hands items to `handle`, one at a time, in order; a full queue or a failed write loses the item."""

    def __init__(self, handle: Callable[[T], Awaitable[bool]], size: int) -> None:
        """Let up to `size` items wait; `handle` returns whether it wrote the item."""
        self._handle = handle
        self._queue: asyncio.Queue[T] = asyncio.Queue(size)
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Items waiting."""
        return self._queue.qsize()

    @property
    def full(self) -> bool:
        """Whether an item offered now would be refused."""
        return self._worker is None or self._queue.full()

    def start(self) -> None:
        """Begin to write."""
        self._worker = asyncio.create_task(self._work(), name="cache-writer")

    def offer(self, item: T) -> bool:
        """Queue an item; False (and counted) when the queue is full or closed."""
        try:
            if self.full:
                raise asyncio.QueueFull
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self.dropped += 1
            return False
        return True

    async def flush(self) -> None:
        """Wait until everything queued so far has been written or lost."""
        if self._worker is not None:
            await self._queue.join()

    async def close(self, seconds: float) -> None:
        """Write what waits, for up to `seconds`, then stop; the rest is lost and counted."""
        if self._worker is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            log.warning("gave up %d cache writes at shutdown", self.pending)
        worker, self._worker = self._worker, None
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        self.dropped += self.pending

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                self.dropped += not await self._handle(item)
            except Exception as error:
                self.dropped += 1
                log.warning("a cache write was lost: %s", type(error).__name__)
            finally:
                self._queue.task_done()


async def quietly(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, for whose failure nobody waits."""
    try:
        await work
    except CacheUnavailable as error:
        log.debug("background work was put off: %s", error)
    except Exception as error:
        log.warning("background work failed: %s", type(error).__name__)
