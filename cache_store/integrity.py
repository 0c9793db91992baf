"""Do catalogue, objects and index tell the same story?"""

from cache_store.catalogue import Catalogue
from cache_store.index import IndexThread, VectorIndex
from cache_store.objects import Objects
from cache_store.parts import Parts
from cache_store.recovery import known_objects


async def check(parts: Parts) -> list[str]:
    """Return one line per disagreement; call with the writer at rest."""
    return [
        *await _check_catalogue(parts.catalogue),
        *await _check_objects(parts.catalogue, parts.objects),
        *await _check_index(parts.catalogue, parts.index, parts.thread),
    ]


async def _check_catalogue(catalogue: Catalogue) -> list[str]:
    problems = []
    ids = await catalogue.entry_ids(None)
    recorded = await catalogue.state_records(ids)
    in_hashes = {(i, record.level) for i, records in zip(ids, recorded, strict=True) for record in records}
    in_order = await catalogue.state_members()
    problems += [f"state {key} is not in the eviction order" for key in sorted(in_hashes - in_order)]
    problems += [f"state {key} is in the eviction order only" for key in sorted(in_order - in_hashes)]
    nbytes = sum(record.nbytes for records in recorded for record in records)
    totals = await catalogue.totals()
    if totals.state_bytes != nbytes:
        problems.append(f"states are counted as {totals.state_bytes} bytes, and are {nbytes}")
    images = await catalogue.image_ids()
    problems += [f"picture of unknown entry {i}" for i in sorted(images - set(ids))]
    bare = [i for i, records in zip(ids, recorded, strict=True) if not records and i not in images]
    return problems + [f"entry {i} holds nothing" for i in bare]


async def _check_objects(catalogue: Catalogue, objects: Objects) -> list[str]:
    stored = {name async for page in objects.names(objects.store_id) for name in page}
    known = await known_objects(catalogue, objects)
    problems = [f"object {name} is missing" for name in sorted(known - stored)]
    return problems + [f"object {name} belongs to nothing" for name in sorted(stored - known)]


async def _check_index(catalogue: Catalogue, index: VectorIndex, thread: IndexThread) -> list[str]:
    problems = []
    partitions = await catalogue.partitions()
    for partition in sorted({*partitions, *await thread.run(index.partitions)}):
        known = {entry_id async for page in catalogue.embeddings(partition) for entry_id, _ in page}
        indexed = await thread.run(index.ids, partition)
        problems += [f"entry {i} is not in the index" for i in sorted(known - indexed)]
        problems += [f"entry {i} is in the index only" for i in sorted(indexed - known)]
    return problems
