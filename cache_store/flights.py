"""The same work for several at once, done once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Lets whoever asks for work that is under way wait for its result; nothing is kept afterwards."""

    def __init__(self, work: Callable[[K], Awaitable[T]]) -> None:
        """Do `work`."""
        self._work = work
        self._tasks: dict[K, asyncio.Task[T]] = {}

    async def join(self, key: K) -> T:
        """Return what `work` returns for `key`; one who gives up spoils it for nobody."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._fly(key))
            task.add_done_callback(_look)
        return await asyncio.shield(task)

    async def _fly(self, key: K) -> T:
        try:
            return await self._work(key)
        finally:
            del self._tasks[key]


def _look(task: "asyncio.Task[T]") -> None:
    """An error is for those who wait: with none left it is of no interest."""
    if not task.cancelled():
        task.exception()
