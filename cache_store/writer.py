"""Writing behind the answer: a bounded queue and one worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class WriteBehind(Generic[T]):
    """Hands items to `handle`, one at a time, in order; a full queue or a failed write loses the item."""

    def __init__(self, handle: Callable[[T], Awaitable[bool]], size: int) -> None:
        """Let up to `size` items wait; `handle` returns whether it wrote the item."""
        self._handle = handle
        self._queue: asyncio.Queue[tuple[T, asyncio.Future[bool]]] = asyncio.Queue(size)
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

    def try_offer(self, item: T) -> "asyncio.Future[bool] | None":
        """Queue an item; return what tells in the end whether it was written, None (and counted) without room."""
        if self.full:
            self.dropped += 1
            return None
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, written))
        return written

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
        while not self._queue.empty():
            _settle(self._queue.get_nowait()[1], done=False)
            self._queue.task_done()

    async def _work(self) -> None:
        while True:
            item, written = await self._queue.get()
            done = False
            try:
                done = await self._handle(item)
                self.dropped += not done
            except Exception as error:
                self.dropped += 1
                log.warning("a cache write was lost: %s", type(error).__name__)
            finally:
                del item  # not to be held until the next one comes
                _settle(written, done=done)
                self._queue.task_done()


def _settle(written: "asyncio.Future[bool]", *, done: bool) -> None:
    if not written.done():  # whoever waited for it may have given up
        written.set_result(done)
