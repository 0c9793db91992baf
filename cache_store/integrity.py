"""Do catalogue, objects, RAM tier, index and eviction policy tell the same story? Telling where not, and mending it.

The catalogue is believed. Whatever else disagrees with it goes or is made anew, page by page; before anything is
taken away it is looked at once more with the writer at rest for that moment, so that no write under way is touched.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from cache_store.eviction import Remover
from cache_store.follower import Follower
from cache_store.mending import CatalogueMender, stepwise
from cache_store.objects import ObjectKey
from cache_store.parts import Parts
from cache_store.ram import Key
from cache_store.records import FINAL_LEVEL, try_number
from cache_store.recovery import known_among
from cache_store.scans import Scans, pages_of
from cache_store.states import CorruptState, decode_final, decode_state

_STEP_SECONDS = 60.0
_LOOKS = 5


class Turn(Protocol):
    """Opens a moment in which nobody writes."""

    def __call__(self) -> AbstractAsyncContextManager[object]:
        """Return it."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to go about it.

    Attributes:
        mend: change what is wrong; otherwise only tell.
        scrub: read every object and compare its checksum.
        older_than: Unix seconds; younger objects nobody knows may belong to another service's write. None = there is
            no other service.
        pause: seconds to rest after every step.
    """

    mend: bool = False
    scrub: bool = False
    older_than: float | None = None
    pause: float = 0.0


class Inspector:
    """Goes through everything once."""

    def __init__(
        self,
        parts: Parts,
        remover: Remover,
        follower: Follower,
        turn: Turn,
        manner: Manner,
    ) -> None:
        """Look at `parts`.

        Args:
            parts: of the store.
            remover: forgets states and pictures.
            follower: brings index and eviction policy in line with the catalogue.
            turn: what holds back the writer.
            manner: how to go about it.
        """
        self._parts = parts
        self._remover = remover
        self._follower = follower
        self._turn = turn
        self._manner = manner
        self._scans = Scans(parts.link)

    async def run(self) -> list[str]:
        """Return one line for every disagreement found, and mended if so asked. Raises CacheUnavailable."""
        mender = CatalogueMender(self._parts, self._step, mend=self._manner.mend)
        problems = await mender.run()
        present, strays = await self._objects()
        for page in pages_of(list(mender.sizes)):
            problems += await self._held(page, present)
        problems += strays
        problems += await self._memory()
        problems += await self._index()
        problems += await self._ranking()
        return list(dict.fromkeys(problems))

    @asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        if self._manner.mend:
            await asyncio.sleep(self._manner.pause)
        async with self._parts.redis(_STEP_SECONDS):
            yield

    async def _objects(self) -> tuple["_Present", list[str]]:
        """Return which objects there are, and one line for each that belongs to nothing."""
        objects, problems, hashes = self._parts.objects, [], array("q")
        async for page in objects.stamped(objects.store_id):
            hashes.extend(hash(name) for name, _ in page)
            unknown = [name for name, stamp in page if self._ripe(stamp)]
            for name in await self._unknown(unknown):
                problems.append(f"object {name} belongs to nothing")
        return _Present(hashes), problems

    def _ripe(self, stamp: datetime) -> bool:
        limit = self._manner.older_than
        return not self._manner.mend or limit is None or stamp < datetime.fromtimestamp(limit, UTC)

    async def _unknown(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` the catalogue does not know; mending deletes them."""
        async with self._step():
            known = await known_among(self._parts, names)
        unknown = [name for name in names if name not in known]
        if not unknown or not self._manner.mend:
            return unknown
        async with self._turn(), self._parts.redis(_STEP_SECONDS):
            known = await known_among(self._parts, unknown)
            return [name for name in unknown if name not in known and await self._delete(name)]

    async def _delete(self, name: str) -> bool:
        """Delete an object; return whether it was still there."""
        async with self._parts.files():
            if not await self._parts.objects.exists(name):
                return False
            await self._parts.objects.delete(name)
            return True

    async def _held(self, entry_ids: Sequence[int], present: "_Present") -> list[str]:
        """Return one line for each object of these entries that is missing, or damaged; mending forgets them."""
        objects = self._parts.objects
        async with self._step():
            keys = await self._object_keys(entry_ids)
        names = {objects.path_of(key): key for key in keys}
        absent = set(present.absent(list(names)))
        problems = []
        for name, key in names.items():
            wrong = await self._wrong(name, key, absent=name in absent)
            if wrong is None:
                continue
            async with self._step():
                if not await known_among(self._parts, [name]):  # forgotten while we looked
                    continue
            problems.append(f"object {name} is {wrong}")
            if self._manner.mend:
                await self._forget(key)
        return problems

    async def _object_keys(self, entry_ids: Sequence[int]) -> list[ObjectKey]:
        catalogue = self._parts.catalogue
        keys: list[ObjectKey] = []
        for entry_id, (levels, has_image) in zip(entry_ids, await catalogue.holdings(entry_ids), strict=True):
            keys += [(entry_id, level) for level in levels]
            keys += [(entry_id, None)] if has_image else []
        return keys

    async def _wrong(self, name: str, key: ObjectKey, *, absent: bool) -> str | None:
        """Return what is wrong with an object, None when nothing is."""
        if not absent and not self._manner.scrub:
            return None
        async with self._parts.files(_STEP_SECONDS, writes=False):
            data = await self._parts.objects.get(name)
        if data is None:
            return "missing"
        if not self._manner.scrub:
            return None
        await asyncio.sleep(self._manner.pause)
        return None if await self._sound(key, data) else "damaged"

    async def _sound(self, key: ObjectKey, data: bytes) -> bool:
        entry_id, level = key
        if level is None:
            async with self._step():
                return await self._parts.catalogue.is_picture(entry_id, data)
        try:
            if level == FINAL_LEVEL:
                await asyncio.to_thread(decode_final, data, entry_id)
            else:
                await asyncio.to_thread(decode_state, data, entry_id, level)
        except CorruptState:
            return False
        return True

    async def _forget(self, key: ObjectKey) -> None:
        entry_id, level = key
        if level is None:
            await self._remover.drop_image(entry_id, "corrupt")
        else:
            await self._remover.drop_state((entry_id, level), "corrupt")

    async def _memory(self) -> list[str]:
        """Return one line for each state in the RAM tier that the catalogue does not know; mending lets go of it."""
        strange = [key for page in _pages(self._parts.ram.keys()) for key in await self._strange(page)]
        if strange and self._manner.mend:
            async with self._turn():
                strange = await self._strange(strange)
                for key in strange:
                    self._parts.ram.discard(key)
        return [f"state {key} is in memory only" for key in strange]

    async def _strange(self, keys: list[Key]) -> list[Key]:
        objects = self._parts.objects
        async with self._parts.redis(_STEP_SECONDS):
            known = await known_among(self._parts, [objects.state_path(*key) for key in keys])
        return [key for key in keys if objects.state_path(*key) not in known and key in self._parts.ram]

    async def _index(self) -> list[str]:
        parts = self._parts
        async with self._step():
            partitions = {*await parts.catalogue.partitions(), *await parts.thread.run(parts.index.partitions)}
        return [problem for partition in sorted(partitions) for problem in await self._partition(partition)]

    async def _partition(self, partition: str) -> list[str]:
        problems = []
        for page in pages_of(sorted(await self._differing(partition))):
            # Writes show up in the catalogue a moment before the index: with the writer at rest they agree.
            async with self._turn():
                lacking, extra = await self._difference(partition, page)
                unfit: set[int] = set()
                if (lacking or extra) and self._manner.mend:
                    await self._follower.reconcile(sorted(lacking | extra))
                    unfit, _ = await self._difference(partition, sorted(lacking))
            for entry_id in sorted(unfit):
                await self._drop_states(entry_id)
            problems += [f"entry {i} is not in the index" for i in sorted(lacking)]
            problems += [f"entry {i} is in the index only" for i in sorted(extra)]
        return problems

    async def _differing(self, partition: str) -> set[int]:
        """Return which entries only one of catalogue and index lists, at a first look."""
        parts, walk = self._parts, self._scans.set_members(f"partition:{partition}")
        indexed = await parts.thread.run(parts.index.ids, partition)
        known: set[int] = set()
        async for page in stepwise(self._step, walk):
            known.update(number for name in page if (number := try_number(name)) is not None)
        return known ^ indexed

    async def _difference(self, partition: str, entry_ids: Sequence[int]) -> tuple[set[int], set[int]]:
        """Return which of these the index lacks, and which it alone holds."""
        parts = self._parts
        async with parts.redis(_STEP_SECONDS):
            known = await parts.catalogue.members_of(partition, entry_ids)
            indexed = await parts.thread.run(parts.index.ids, partition)
        indexed &= set(entry_ids)
        return known - indexed, indexed - known

    async def _ranking(self) -> list[str]:
        """Return one line for each state the eviction policy lacks, one if it holds others; mending tells it anew."""
        lacking: list[Key] = []
        async for page in stepwise(self._step, self._parts.catalogue.all_states()):
            lacking += [holding.key for holding in page if not self._ranked(holding.key)]
        async with self._turn():
            unknown, extra = await self._misranked(lacking)
        if (unknown or extra) and self._manner.mend:
            await self._follower.rerank()
        problems = [f"state {key} is unknown to the eviction policy" for key in sorted(unknown)]
        return problems + ["the eviction policy holds states that are not there"] * extra

    async def _misranked(self, lacking: Sequence[Key]) -> tuple[list[Key], bool]:
        """Return those of `lacking` that the policy still lacks, and whether it holds others that are not there."""
        parts, extra = self._parts, True
        for _ in range(_LOOKS):
            await self._follower.catch_up_all()
            unknown = [key for key in await self._stored(lacking) if not self._ranked(key)]
            async with parts.redis(_STEP_SECONDS):
                totals = await parts.catalogue.totals()
            extra = len(parts.ranking.policy) + len(unknown) > totals.states
            # What has happened since the catching up, elsewhere perhaps, may be all the difference.
            if not extra or self._follower.sequence == totals.last_event:
                break
        return unknown, extra

    async def _stored(self, keys: Sequence[Key]) -> list[Key]:
        """Return those of `keys` that the catalogue holds."""
        stored: set[Key] = set()
        for page in pages_of(sorted({entry_id for entry_id, _ in keys})):
            async with self._parts.redis(_STEP_SECONDS):
                stored.update(holding.key for holding in await self._parts.catalogue.states_of(page))
        return [key for key in keys if key in stored]

    def _ranked(self, key: Key) -> bool:
        return key in self._parts.ranking.policy

    async def _drop_states(self, entry_id: int) -> None:
        """Forget the states of an entry that no search can find: its embedding is unusable."""
        async with self._step():
            ((levels, _),) = await self._parts.catalogue.holdings([entry_id])
        for level in levels:
            await self._remover.drop_state((entry_id, level), "corrupt")


class _Present:
    """Which objects there are, in eight bytes each."""

    def __init__(self, hashes: "array[int]") -> None:
        self._hashes = np.sort(np.frombuffer(hashes, np.int64)) if hashes else np.empty(0, np.int64)

    def absent(self, names: list[str]) -> list[str]:
        wanted = np.fromiter((hash(name) for name in names), np.int64, len(names))
        at = np.searchsorted(self._hashes, wanted)
        found = np.zeros(len(names), bool)
        inside = at < len(self._hashes)
        found[inside] = self._hashes[at[inside]] == wanted[inside]
        return [name for name, there in zip(names, found, strict=True) if not there]


def _pages(keys: list[Key], size: int = 500) -> list[list[Key]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
