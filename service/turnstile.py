"""The bound on pictures in work or waiting: beyond it, a request is told when to come back."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.refusals import RefusedError


class QueueFullError(RefusedError):
    """Too many pictures are in work or waiting.

    Args:
        seconds: predicted time until there is a place.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("queue_full", seconds)


class Turnstile:
    """Counts pictures between acceptance and answer.

    Args:
        limit: most pictures inside.
        wait_for: predicts when so many of those inside will be finished, in seconds.
    """

    def __init__(self, limit: int, wait_for: Callable[[int], float] = float) -> None:
        self._limit = limit
        self._wait_for = wait_for
        self._inside = 0
        self._empty, self._occupied = asyncio.Event(), asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._inside

    def check(self, pictures: int) -> None:
        """Tell, without taking them, that so many places are free.

        Raises:
            QueueFullError: they are not.
        """
        if self._inside and self._inside + pictures > self._limit:
            raise QueueFullError(self._wait_for(self._inside + pictures - self._limit))

    @contextmanager
    def enter(self, pictures: int) -> Iterator[None]:
        """Hold `pictures` places.

        Raises:
            QueueFullError: they are not free. A request larger than the bound enters when nothing else is inside.
        """
        self.check(pictures)
        self._move(pictures)
        try:
            yield
        finally:
            self._move(-pictures)

    async def until_empty(self) -> None:
        """Wait until nothing is inside."""
        await self._empty.wait()

    async def until_occupied(self) -> None:
        """Wait until something is inside."""
        await self._occupied.wait()

    def _move(self, pictures: int) -> None:
        self._inside += pictures
        told, untold = (self._occupied, self._empty) if self._inside else (self._empty, self._occupied)
        told.set()
        untold.clear()
