"""Catalogue against itself: every key derived from the entries must say what they say."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from cache_store import mending_scripts as scripts
from cache_store.catalogue import PREFIX
from cache_store.events import HistoryLost, Mark
from cache_store.link import RedisLink
from cache_store.parts import Parts
from cache_store.scans import Scans, bytes_of, pages_of

log = logging.getLogger(__name__)

T = TypeVar("T")
_BATCH = 50
_ATTEMPTS = 20
_FEW = 100
_MOST_PAGES = 50
_KEEP_UP_SECONDS = 1.0

Step = Callable[[], AbstractAsyncContextManager[None]]
"""Opens one step of work: what pauses between steps, and guards each."""


async def stepwise(step: Step, walk: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the pages of `walk`, reading each inside a step."""
    while True:
        async with step():
            page = await anext(walk, None)
        if page is None:
            return
        yield page


class CatalogueMender:
    """Goes through the catalogue once, mending it or only telling what is wrong.

    Attributes:
        sizes: bytes of states and of the picture of every entry met.
    """

    def __init__(self, parts: Parts, step: Step, *, mend: bool) -> None:
        """Go through that of `parts`, each page inside `step`; change nothing unless `mend`."""
        self._link: RedisLink = parts.link
        self._catalogue = parts.catalogue
        self._scans = Scans(parts.link)
        self._step = step
        self._mend = mend
        self.sizes: dict[int, tuple[int, int]] = {}
        self._sums = [0, 0]
        self._mark: Mark | None = Mark()  # None once its event is gone
        self._caught_up = time.monotonic()
        self._beside: list[str] = []

    async def run(self) -> list[str]:
        """Return what was wrong, one line each."""
        async with self._step():
            self._mark = await self._catalogue.last_event()
        problems = await self._entries()
        for name in ("entries", "images", "order"):
            problems += await self._list(name, "", self._scans.sorted_members(name))
        problems += await self._named_lists()
        problems += await self._list("partitions", "", self._scans.set_members("partitions"))
        problems += await self._totals()
        return problems + self._beside

    async def _entries(self) -> list[str]:
        problems = []
        for walk in (self._scans.keys("entry"), self._scans.keys("states"), self._scans.sorted_members("entries")):
            async for page in stepwise(self._step, walk):
                new = [int(name) for name in page if name.isdigit() and int(name) not in self.sizes]
                for batch in pages_of(list(dict.fromkeys(new)), _BATCH):
                    problems += await self._measure(batch)
                await self._keep_up()
        return problems

    async def _measure(self, entry_ids: Sequence[int]) -> list[str]:
        """Judge, and perhaps mend, these entries; note their sizes."""
        async with self._step():
            rows = await self._link.script(scripts.MEND_ENTRIES, PREFIX, int(self._mend), *entry_ids)
        problems = []
        for entry_id, state_bytes, image_bytes, *notes in rows:
            self._note_size(int(entry_id), int(state_bytes), int(image_bytes))
            problems += [note.decode("utf-8", "replace") for note in notes]
        return problems

    def _note_size(self, entry_id: int, state_bytes: int, image_bytes: int) -> None:
        before = self.sizes.get(entry_id, (0, 0))
        self.sizes[entry_id] = (state_bytes, image_bytes)
        self._sums = [self._sums[0] + state_bytes - before[0], self._sums[1] + image_bytes - before[1]]

    async def _named_lists(self) -> list[str]:
        problems = []
        async for names in stepwise(self._step, self._scans.keys("exact")):
            problems += await self._judge("exact", "", names)
        for kind in ("tenant", "user", "partition"):
            async for names in stepwise(self._step, self._scans.keys(kind)):
                for name in names:
                    walk = self._scans.sorted_members if kind == "tenant" else self._scans.set_members
                    problems += await self._list(kind, name, walk(f"{kind}:{name}"))
        return problems

    async def _list(self, kind: str, name: str, walk: AsyncIterator[list[str]]) -> list[str]:
        problems = []
        async for page in stepwise(self._step, walk):
            problems += await self._judge(kind, name, page)
            await self._keep_up()
        return problems

    async def _judge(self, kind: str, name: str, members: Sequence[str]) -> list[str]:
        async with self._step():
            head = (PREFIX, int(self._mend), kind, bytes_of(name))
            notes = await self._link.script(scripts.MEND_MEMBERS, *head, *map(bytes_of, members))
            return [note.decode("utf-8", "replace") for note in notes]

    async def _totals(self) -> list[str]:
        """Compare the running sums with the entries; others may write meanwhile, their events tell what changed."""
        for _ in range(_ATTEMPTS):
            await self._catch_up()
            if self._mark is None:
                return []
            async with self._step():
                held, right = await self._catalogue.totals(), list(self._sums)
                if [held.state_bytes, held.image_bytes] == right:
                    return []
                if await self._settled(right):
                    return _wrong_sums(held.state_bytes, held.image_bytes, right)
        return []

    async def _settled(self, right: list[int]) -> bool:
        """Whether nothing has changed since the sums were taken; mending writes them down then."""
        if self._mark is None:
            return False
        if not self._mend:
            return self._mark == await self._catalogue.last_event()
        return bool(await self._link.script(scripts.SET_TOTALS, PREFIX, self._mark.sequence, *right) == 1)

    async def _keep_up(self) -> None:
        """Catch up every second: the history is finite, and a walk may take longer than it reaches back."""
        if time.monotonic() - self._caught_up >= _KEEP_UP_SECONDS:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Measure anew what has changed, until nearly nothing more has."""
        for _ in range(_MOST_PAGES):
            if await self._take_events() < _FEW:
                break
        self._caught_up = time.monotonic()

    async def _take_events(self) -> int:
        """Measure anew what the next page of events has changed; return how many events there were."""
        if self._mark is None:
            return 0
        async with self._step():
            try:
                events = await self._catalogue.events_after(self._mark)
            except HistoryLost as error:
                log.info("the sums are left to the next repair: %s", error)
                self._mark = None
                return 0
        changed = sorted({event.entry_id for event in events if event.kind != "touch"})
        for batch in pages_of(changed, _BATCH):
            self._beside += await self._measure(batch)
        if events:
            self._mark = events[-1].mark
        return len(events)


def _wrong_sums(state_bytes: int, image_bytes: int, right: list[int]) -> list[str]:
    problems = []
    if state_bytes != right[0]:
        problems.append(f"states are counted as {state_bytes} bytes, and are {right[0]}")
    if image_bytes != right[1]:
        problems.append(f"pictures are counted as {image_bytes} bytes, and are {right[1]}")
    return problems
