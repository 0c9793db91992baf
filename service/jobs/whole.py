"""Work that must not be left half done."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def whole(work: Awaitable[T]) -> T:
    """Return what `work` does; who is cancelled meanwhile is so once it has ended, well or badly.

    What was sent to another process may arrive after its sender was cut off, and then nobody takes it back.
    """
    task = asyncio.ensure_future(work)
    cut: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cut = error
    if cut is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # or it would be reported as never looked at
    raise cut
