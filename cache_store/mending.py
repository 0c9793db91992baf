"""Catalogue against itself: every key derived from the entries must say what they say."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from cache_store import mending_scripts as scripts
from cache_store.catalogue import PREFIX
from cache_store.events import Mark
from cache_store.link import RedisLink
from cache_store.parts import Parts
from cache_store.scans import Scans, bytes_of, pages_of

_BATCH = 50
_ATTEMPTS = 20

Step = Callable[[], AbstractAsyncContextManager[None]]
"""Opens one step of work: what pauses between steps, and guards each."""


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

    async def run(self) -> list[str]:
        """Return what was wrong, one line each."""
        async with self._step():
            began = await self._catalogue.last_event()
        problems = await self._entries()
        for name in ("entries", "images", "order"):
            problems += await self._list(name, "", self._scans.sorted_members(name))
        problems += await self._named_lists()
        problems += await self._list("partitions", "", self._scans.set_members("partitions"))
        return problems + await self._totals(began)

    async def _entries(self) -> list[str]:
        problems = []
        for walk in (self._scans.keys("entry"), self._scans.keys("states"), self._scans.sorted_members("entries")):
            async for page in self._stepwise(walk):
                new = [int(name) for name in page if name.isdigit() and int(name) not in self.sizes]
                for batch in pages_of(list(dict.fromkeys(new)), _BATCH):
                    problems += await self._measure(batch)
        return problems

    async def _measure(self, entry_ids: Sequence[int]) -> list[str]:
        """Judge, and perhaps mend, these entries; note their sizes."""
        async with self._step():
            rows = await self._link.script(scripts.MEND_ENTRIES, PREFIX, int(self._mend), *entry_ids)
        problems = []
        for entry_id, state_bytes, image_bytes, *notes in rows:
            self.sizes[int(entry_id)] = (int(state_bytes), int(image_bytes))
            problems += [note.decode("utf-8", "replace") for note in notes]
        return problems

    async def _named_lists(self) -> list[str]:
        problems = []
        async for names in self._stepwise(self._scans.keys("exact")):
            problems += await self._judge("exact", "", names)
        for kind in ("tenant", "user", "partition"):
            async for names in self._stepwise(self._scans.keys(kind)):
                for name in names:
                    walk = self._scans.sorted_members if kind == "tenant" else self._scans.set_members
                    problems += await self._list(kind, name, walk(f"{kind}:{name}"))
        return problems

    async def _list(self, kind: str, name: str, walk: AsyncIterator[list[str]]) -> list[str]:
        return [note async for page in self._stepwise(walk) for note in await self._judge(kind, name, page)]

    async def _judge(self, kind: str, name: str, members: Sequence[str]) -> list[str]:
        async with self._step():
            head = (PREFIX, int(self._mend), kind, bytes_of(name))
            notes = await self._link.script(scripts.MEND_MEMBERS, *head, *map(bytes_of, members))
            return [note.decode("utf-8", "replace") for note in notes]

    async def _stepwise(self, walk: AsyncIterator[list[str]]) -> AsyncIterator[list[str]]:
        """Yield the pages of `walk`, reading each inside a step."""
        while True:
            async with self._step():
                page = await anext(walk, None)
            if page is None:
                return
            yield page

    async def _totals(self, since: Mark) -> list[str]:
        """Compare the running sums with the entries; others may write meanwhile, their events tell what changed."""
        for _ in range(_ATTEMPTS):
            since = await self._remeasure(since)
            async with self._step():
                held = await self._catalogue.totals()
                right = [sum(column) for column in zip(*self.sizes.values(), strict=True)] or [0, 0]
                if [held.state_bytes, held.image_bytes] == right:
                    return []
                if not self._mend and since == await self._catalogue.last_event():
                    return _wrong_sums(held.state_bytes, held.image_bytes, right)
                if self._mend and await self._link.script(scripts.SET_TOTALS, PREFIX, since.sequence, *right) == 1:
                    return _wrong_sums(held.state_bytes, held.image_bytes, right)
        return []

    async def _remeasure(self, since: Mark) -> Mark:
        """Measure entries that changed after event `since` once more; return the last event seen."""
        while True:
            async with self._step():
                events = await self._catalogue.events_after(since)
            if not events:
                return since
            changed = sorted({event.entry_id for event in events if event.kind != "touch"})
            for batch in pages_of(changed, _BATCH):
                await self._measure(batch)
            since = events[-1].mark


def _wrong_sums(state_bytes: int, image_bytes: int, right: list[int]) -> list[str]:
    problems = []
    if state_bytes != right[0]:
        problems.append(f"states are counted as {state_bytes} bytes, and are {right[0]}")
    if image_bytes != right[1]:
        problems.append(f"pictures are counted as {image_bytes} bytes, and are {right[1]}")
    return problems
