"""Build the index again from the catalogue; sweep away objects nobody knows."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from cache_store.catalogue import Catalogue
from cache_store.index import Growth, PartitionedIndex, Reshelver
from cache_store.parts import Parts
from cache_store.records import parse_embedding
from cache_store.types import Float32Array

log = logging.getLogger(__name__)

_KNOWN_SECONDS = 60.0
_DELETE_SECONDS = 30.0
_BATCH = 50


async def rebuild_index(catalogue: Catalogue, growth: Growth, reshelver: Reshelver) -> PartitionedIndex:
    """Return a new index of every entry that holds a state; entries with an unreadable embedding stay out."""
    index = PartitionedIndex(growth)
    skipped = 0
    for partition in await catalogue.partitions():
        async for page in catalogue.embeddings(partition):
            good = [(entry_id, vector) for entry_id, raw in page if (vector := parse_embedding(raw)) is not None]
            skipped += len(page) - len(good) + _add(index, partition, good)
            # A large partition is put into lists as it grows here too, for as plain rows it might not fit in memory.
            if index.due() is not None:
                await reshelver.run(index)
    if skipped:
        log.warning("%d entries with an unreadable embedding are left out of the index", skipped)
    return index


def _add(index: PartitionedIndex, partition: str, entries: list[tuple[int, Float32Array]]) -> int:
    """Add entries of one dimension; return how many of another one were left out."""
    if not entries:
        return 0
    size = index.dimension(partition) or entries[0][1].shape[0]
    fitting = [(entry_id, vector) for entry_id, vector in entries if vector.shape[0] == size]
    if fitting:
        index.add(partition, [entry_id for entry_id, _ in fitting], np.stack([vector for _, vector in fitting]))
    return len(entries) - len(fitting)


async def known_among(parts: Parts, names: Sequence[str]) -> set[str]:
    """Return those of `names` that are objects the catalogue refers to; call inside the link's guard."""
    keys = {name: key for name in names if (key := parts.objects.key_of(name)) is not None}
    holdings = await parts.catalogue.holdings([entry_id for entry_id, _ in keys.values()])
    deposited = await parts.deposits.known([name for name in names if name not in keys])
    return deposited | {
        name
        for (name, (_, level)), (levels, has_image) in zip(keys.items(), holdings, strict=True)
        if (has_image if level is None else level in levels)
    }


async def sweep(parts: Parts, exclusive: asyncio.Lock, *, whole: bool, older_than: float) -> int:
    """Delete objects last written before `older_than` (Unix seconds) that the catalogue does not know.

    Args:
        parts: of the store to sweep.
        exclusive: the writer's lock; held while a few objects are judged and deleted, so that whatever the clocks
            say no write of this service's is taken for one that was given up.
        whole: whether the object store belongs to this catalogue alone, so that other parts go too.
        older_than: younger objects may belong to a write under way elsewhere.

    Returns:
        How many were deleted.

    Raises:
        CacheUnavailable: catalogue or object store went away; some may remain.
    """
    objects = parts.objects
    count = 0
    async for page in objects.names(None if whole else objects.store_id, older_than=older_than):
        orphans = await _unknown(parts, page)
        for start in range(0, len(orphans), _BATCH):
            async with exclusive:
                count += await _delete(parts, await _unknown(parts, orphans[start : start + _BATCH]))
    if count:
        log.info("swept away %d objects of interrupted writes", count)
    return count


async def _unknown(parts: Parts, names: Sequence[str]) -> list[str]:
    """Return those of `names` that the catalogue does not know."""
    if not names:
        return []
    async with parts.redis(_KNOWN_SECONDS):
        known = await known_among(parts, names)
    return [name for name in names if name not in known]


async def _delete(parts: Parts, names: Sequence[str]) -> int:
    async with parts.files(_DELETE_SECONDS), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(parts.objects.delete(name))
    return len(names)
