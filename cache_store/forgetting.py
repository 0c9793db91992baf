"""Forgetting on purpose: what a selection names, stored and queued, in small batches."""

import asyncio
import time

from cache_store.eviction import Remover
from cache_store.parts import Parts
from cache_store.recorder import Memory
from cache_store.records import try_number
from cache_store.scans import Scans, pages_of
from cache_store.selection import Selection

_BATCH = 16
_WALK_SECONDS = 600.0


class Forgetter:
    """Forgets selections; between two batches writers get their turn."""

    def __init__(self, parts: Parts, remover: Remover, exclusive: asyncio.Lock) -> None:
        """Work on `parts` while holding `exclusive`, the writer's lock."""
        self._parts = parts
        self._remover = remover
        self._exclusive = exclusive
        self._scans = Scans(parts.link)
        self._pending: list[tuple[int, Selection]] = []
        self._judged = 0

    def drops(self, memory: Memory) -> bool:
        """Return whether a queued write was forgotten after it was queued; asked of each write, in order."""
        self._judged = memory.number
        self._pending = [(newest, selection) for newest, selection in self._pending if memory.number <= newest]
        return any(selection.matches_queued(memory.entry, time.time()) for _, selection in self._pending)

    async def forget(self, selection: Selection, queued: int) -> int:
        """Forget what `selection` names, up to the `queued`-th write; return how many entries were stored.

        Takes as long as it takes. Raises CacheUnavailable, some entries then remain.
        """
        if queued > self._judged:  # some write still waits
            self._pending = [(newest, other) for newest, other in self._pending if other != selection]
            self._pending.append((queued, selection))
        async with self._exclusive:  # let the write pass that is under way, if any
            pass
        async with self._parts.redis(_WALK_SECONDS):
            await self._parts.generations.forget(selection)
        await self._parts.deposits.forget(selection)
        chosen = await self._choose(selection)
        self._lay_ghosts(selection, chosen)
        forgotten = 0
        for batch in pages_of(chosen, _BATCH):
            async with self._parts.redis(_WALK_SECONDS):
                await self._parts.generations.forget_entries(batch)
            async with self._exclusive:
                forgotten += sum([await self._remover.clear_entry(entry_id) for entry_id in batch])
        self._lay_ghosts(selection, chosen)  # some may have been evicted meanwhile
        return forgotten

    def _lay_ghosts(self, selection: Selection, chosen: list[int]) -> None:
        """Forget what is remembered of entries evicted before; a ghost does not say whose it was."""
        if chosen or selection.entry_ids is None:
            self._parts.ghosts.clear()
            return
        for entry_id in selection.entry_ids:
            self._parts.ghosts.forget(entry_id)

    async def _choose(self, selection: Selection) -> list[int]:
        async with self._parts.redis(_WALK_SECONDS):
            chosen: list[int] = []
            for page in pages_of(await self._named(selection)):
                rows = await self._scans.fields(page, "tenant", "user", "created")
                chosen += [i for i, row in zip(page, rows, strict=True) if _matches(selection, row)]
            return chosen

    async def _named(self, selection: Selection) -> list[int]:
        """Return entries among which the selection's are, by the narrowest list there is."""
        if selection.entry_ids is not None:
            return list(dict.fromkeys(selection.entry_ids))
        if selection.user is not None:
            walk = self._scans.set_members(f"user:{selection.user}")
        else:
            walk = self._scans.sorted_members("entries" if selection.everybody else f"tenant:{selection.tenant}")
        found = {number async for page in walk for member in page if (number := try_number(member)) is not None}
        return sorted(found)


def _matches(selection: Selection, row: list[bytes | None]) -> bool:
    tenant, user, created = row
    if tenant is None:
        # Listed without being there: only whoever forgets everything takes it along.
        return selection.everybody and not selection.dated and selection.user is None
    return selection.matches(_text(tenant), _text(user or b""), _time(created or b""))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _time(raw: bytes) -> float:
    try:
        return float(raw)
    except ValueError:
        return 0.0
