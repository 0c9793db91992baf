"""Writing one generation down: objects first, then the catalogue, then the index."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from redis.exceptions import ResponseError

from cache_store.codec import Codec
from cache_store.parts import Parts
from cache_store.records import StateRecord, checked_embedding, level_of, level_of_state
from cache_store.sharing import SharingRules, may_publish
from cache_store.states import encode_final, encode_state
from cache_store.types import CacheEntry, CacheUnavailable, FinalState, Float32Array, NoiseState, StoredImage

File = tuple[NoiseState | FinalState, bytes]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """A generation on its way into the store.

    Attributes:
        entry: what to remember it by; id 0 = assign one.
        states: its noise states.
        image: its final picture.
        number: its place among all that were queued, from 1.
        final: its clean latent, kept instead of the states where that takes fewer bytes.
    """

    entry: CacheEntry
    states: tuple[NoiseState, ...]
    image: StoredImage
    number: int
    final: FinalState | None = None


class Recorder:
    """Makes a generation visible only once all its bytes are in the object store."""

    def __init__(self, parts: Parts, codec: Codec = "fp16", rules: SharingRules | None = None) -> None:
        """Write to `parts`, states in `codec`; public entries as far as `rules` let their authors."""
        self._parts = parts
        self._codec = codec
        self._rules = rules or SharingRules()

    async def write(self, memory: Memory) -> bool:
        """Write `memory`; False when it is unusable or its id is taken. Raises CacheUnavailable."""
        vector = checked_embedding(memory.entry.embedding)
        if vector is None or memory.entry.entry_id < 0 or not await self._fits(memory.entry, vector):
            log.warning("a cache write was refused: an unusable embedding or id")
            return False
        numbered = await self._number(await self._placed(memory.entry))
        if numbered is None:
            return False
        entry, now = numbered
        files = await asyncio.to_thread(_cheapest, entry.entry_id, memory, self._codec)
        await self._put(entry, files, memory.image)
        seconds = entry.full_seconds or entry.gpu_seconds
        ghost = await asyncio.to_thread(self._parts.ghosts.nearest, entry.signature.digest, vector)
        page = ghost.page if ghost else 0
        records = [
            StateRecord.of(entry.entry_id, state, len(data), now).worth(seconds, page) for state, data in files
        ]
        if not await self._commit(entry, records, memory.image, now):
            return False
        if ghost:
            self._parts.ghosts.answered(ghost, seconds - entry.gpu_seconds)
        await self._show(entry, files, vector)
        await self._link_generation(entry)
        return True

    async def _placed(self, entry: CacheEntry) -> CacheEntry:
        """Return the entry in the partition it goes to: its tenant's own, where that has enough of a public one."""
        signature = entry.signature
        if signature.scope != "public":
            return entry
        async with self._parts.redis():
            if await may_publish(self._parts.link, self._rules, signature.digest, signature.tenant):
                return entry
        return replace(entry, signature=signature.within("tenant"))

    async def _fits(self, entry: CacheEntry, vector: Float32Array) -> bool:
        size = await self._parts.thread.run(self._parts.index.dimension, entry.signature.digest)
        return size is None or size == vector.shape[0]

    async def _commit(self, entry: CacheEntry, records: Sequence[StateRecord], image: StoredImage, now: int) -> bool:
        try:
            async with self._parts.redis():
                return await self._parts.catalogue.commit(entry, records, image, now)
        except CacheUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):  # that is Redis refusing it: out of memory, for one
                # It may have been committed all the same; only a fresh look at the catalogue can tell.
                self._parts.link.renew("the fate of a write is unknown")
            raise

    async def _link_generation(self, entry: CacheEntry) -> None:
        if not entry.generation:
            return
        try:
            async with self._parts.redis():
                await self._parts.generations.link(entry.generation, entry.entry_id)
        except CacheUnavailable as error:  # the generation itself is remembered
            log.debug("a generation was not linked to its entry: %s", error)

    async def _number(self, entry: CacheEntry) -> tuple[CacheEntry, int] | None:
        """Give the entry its id; return it with the logical time, or None when the id is taken."""
        catalogue = self._parts.catalogue
        async with self._parts.redis():
            if entry.entry_id and await catalogue.exists(entry.entry_id):
                log.warning("a cache write was refused: its id is taken")
                return None
            entry_id = entry.entry_id or await catalogue.new_id()
            return replace(entry, entry_id=entry_id), await catalogue.tick()

    async def _put(self, entry: CacheEntry, files: Sequence[File], image: StoredImage) -> None:
        objects, entry_id, tenant = self._parts.objects, entry.entry_id, entry.signature.tenant
        names = [(objects.state_path(entry_id, level_of_state(state)), data) for state, data in files]
        if image.data:
            names.append((objects.image_path(entry_id), image.data))
        async with self._parts.files(), asyncio.TaskGroup() as group:
            for name, data in names:
                group.create_task(objects.put(name, data, tenant))

    async def _show(self, entry: CacheEntry, files: Sequence[File], vector: Float32Array) -> None:
        for state, data in files:
            self._parts.ram.put((entry.entry_id, level_of_state(state)), data)
        # The follower may have read of it already.
        if files and entry.entry_id not in self._parts.index:
            row = vector[np.newaxis]
            await self._parts.thread.run(self._parts.index.add, entry.signature.digest, [entry.entry_id], row)


def _cheapest(entry_id: int, memory: Memory, codec: Codec) -> list[File]:
    """Return what to write: the clean latent where it is usable and takes fewer bytes than the states, else these."""
    files = _encode_all(entry_id, memory.states, codec)
    if memory.final is None:
        return files
    try:
        data = encode_final(entry_id, memory.final, codec)
    except ValueError as error:
        log.warning("a clean latent was not stored: %s", error)
        return files
    return [(memory.final, data)] if not files or len(data) < sum(len(other) for _, other in files) else files


def _encode_all(entry_id: int, states: Sequence[NoiseState], codec: Codec) -> list[File]:
    """Return each usable state with its bytes: one per noise level, none that is not finite float16."""
    encoded: dict[int, File] = {}
    for state in states:
        try:
            data = encode_state(entry_id, state, codec)
        except ValueError as error:
            log.warning("a noise state was not stored: %s", error)
            continue
        encoded[level_of(state.log_snr)] = (state, data)
    return list(encoded.values())
