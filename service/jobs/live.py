"""A job of this process, and who watches it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from service.jobs.state import JobState


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture in progress: which of the job's, at which step, as PNG."""

    picture: int
    step: int
    data: bytes


@dataclass
class LiveJob:
    """The state that changes, beside what only this process knows.

    Attributes:
        state: the newest.
        tenant: whose it is.
        user: digest of whom it is drawn for, empty = nobody named.
        first_request: id of its first picture, by which its place in the line is known.
        preview: the newest.
        task: draws it.
        saved: version of the state that the catalogue has.
        keeping: whether its pictures are deposited, or are about to be.
        dropped: whether it was deleted.
    """

    state: JobState
    tenant: str
    user: str
    first_request: str
    preview: Preview | None = None
    task: "asyncio.Task[None] | None" = None
    saved: int = 0
    keeping: bool = False
    dropped: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, **fields: Any) -> None:
        """Set fields of the state, and tell everybody."""
        self.state = self.state.model_copy(update={**fields, "version": self.state.version + 1})
        self._tell()

    def show(self, preview: Preview) -> None:
        """Replace the preview, and tell everybody."""
        self.preview = preview
        self._tell()

    async def changed(self, seconds: float) -> None:
        """Wait for the next change, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        told, self._changed = self._changed, asyncio.Event()
        told.set()
