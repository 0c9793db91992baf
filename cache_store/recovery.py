"""Build the index again from the catalogue; sweep away objects nobody knows."""

import logging

import numpy as np

from cache_store.catalogue import Catalogue
from cache_store.index import Growth, PartitionedIndex, Reshelver
from cache_store.objects import Objects
from cache_store.parts import Parts
from cache_store.records import parse_embedding
from cache_store.types import Float32Array

log = logging.getLogger(__name__)

_KNOWN_SECONDS = 60.0


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


async def known_objects(catalogue: Catalogue, objects: Objects) -> set[str]:
    """Return the names of all objects the catalogue refers to."""
    names = {objects.state_path(*key) for key in await catalogue.state_members()}
    return names | {objects.image_path(entry_id) for entry_id in await catalogue.image_ids()}


async def sweep(parts: Parts, *, whole: bool, older_than: float) -> int:
    """Delete objects last written before `older_than` (Unix seconds) that the catalogue does not know.

    Args:
        parts: of the store to sweep.
        whole: whether the object store belongs to this catalogue alone, so that other parts go too.
        older_than: younger objects may belong to a write under way.

    Returns:
        How many were deleted.
    """
    objects = parts.objects
    prefix = None if whole else objects.store_id
    found = [name async for page in objects.names(prefix, older_than=older_than) for name in page]
    # In this order: what was listed before the catalogue was read cannot have been committed unseen.
    async with parts.redis(_KNOWN_SECONDS):
        known = await known_objects(parts.catalogue, objects)
    orphans = [name for name in found if name not in known]
    for name in orphans:
        await objects.delete(name)
    if orphans:
        log.info("swept away %d objects of interrupted writes", len(orphans))
    return len(orphans)
