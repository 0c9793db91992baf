"""The bound on pictures in work or waiting: beyond it, a request is told when to come back."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_WAIT = 60


class QueueFullError(Exception):
    """Too many pictures are in work; `retry_after` is the predicted wait in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many pictures are waiting")
        self.retry_after = retry_after


class Turnstile:
    """Counts pictures between acceptance and answer.

    Args:
        limit: most pictures inside.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._seconds_each = 1.0
        self._empty, self._occupied = asyncio.Event(), asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._inside

    @contextmanager
    def enter(self, pictures: int) -> Iterator[None]:
        """Hold `pictures` places.

        Raises:
            QueueFullError: they are not free. A request larger than the bound enters when nothing else is inside.
        """
        if self._inside and self._inside + pictures > self._limit:
            raise QueueFullError(self._predicted_wait())
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

    def note_pace(self, device_seconds: float) -> None:
        """Learn how much device time a picture takes (a running mean that forgets)."""
        self._seconds_each += 0.2 * (device_seconds - self._seconds_each)

    def _predicted_wait(self) -> int:
        return min(LONGEST_WAIT, max(1, math.ceil(self._inside * self._seconds_each)))
