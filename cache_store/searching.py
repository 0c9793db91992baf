"""Looking for neighbours: the partitions a reader may look into, and no others."""

import asyncio
import logging
from collections.abc import Sequence

from cache_store.catalogue import Reader
from cache_store.expiry import Lifetimes
from cache_store.parts import Parts
from cache_store.records import level_of_ref
from cache_store.sharing import FREE_ENTRIES, SharingRules
from cache_store.types import CacheUnavailable, Float32Array, Signature
from policies.matching.base import Candidate

log = logging.getLogger(__name__)

# The index codes vectors in 8 bits and only estimates: the nearest is surely among a few more than are asked for, and
# all are scored exactly. One may lose its last state meanwhile, too.
SPARE_NEIGHBOURS = 16
# Among a public partition's nearest may be some that the reader must not see, of one author as many as it has free.
_HIDDEN_NEIGHBOURS = 2 * FREE_ENTRIES

Found = list[tuple[Candidate, float]]
"""Candidates, each with the seconds it has left to live."""


class Searcher:
    """Finds candidates in a reader's own partition and, if it is to share, in the public one.

    Args:
        parts: index and catalogue.
        lifetimes: where it is noted how long what was found will live; None where entries have no bound.
        lease_seconds: how long it is kept from eviction, unless it is loaded sooner; 0 = not.
        rules: what of public partitions is visible.
    """

    def __init__(
        self, parts: Parts, lifetimes: Lifetimes | None, *, lease_seconds: float, rules: SharingRules
    ) -> None:
        self._parts = parts
        self._lifetimes = lifetimes
        self._lease_seconds = lease_seconds
        self._rules = rules

    async def search(
        self, signature: Signature, vector: Float32Array, limit: int, deadline: float, *, lease: bool, public: bool
    ) -> list[Candidate]:
        """Return the nearest candidates, most similar first; see `CacheStore.search`."""
        found = await self._look(signature.digest, vector, limit, deadline, lease=lease, reader=None)
        if public:
            reader = Reader(signature.tenant, self._rules.quarantine_seconds, self._rules.witnesses)
            partition = signature.within("public").digest
            found += await self._look(partition, vector, limit, deadline, lease=lease, reader=reader)
            found = sorted(found, key=lambda pair: -pair[0].similarity)[:limit]
        if lease:
            self._lease(found)
        return [candidate for candidate, _ in found]

    async def _look(
        self, partition: str, vector: Float32Array, limit: int, deadline: float, *, lease: bool, reader: Reader | None
    ) -> Found:
        # Outside the link's guard: that the index is slow says nothing about Redis.
        most = limit + SPARE_NEIGHBOURS + (_HIDDEN_NEIGHBOURS if reader else 0)
        ids = await self._nearest(partition, vector, most, deadline)
        parts = self._parts
        async with parts.link.guard(deadline):
            return await parts.catalogue.candidates(partition, ids, vector, limit, lease=lease, reader=reader)

    async def _nearest(self, partition: str, vector: Float32Array, most: int, deadline: float) -> list[int]:
        parts = self._parts
        try:
            async with asyncio.timeout_at(deadline):
                near = await parts.thread.search(parts.index.search, partition, vector, most)
        except TimeoutError as error:
            raise CacheUnavailable("the index did not answer in time") from error
        except ValueError as error:
            raise CacheUnavailable("embedding of another dimension") from error
        except Exception as error:
            log.error("the index cannot be searched: %s", type(error).__name__)
            raise CacheUnavailable(f"index fault: {type(error).__name__}") from error
        return [entry_id for entry_id, _ in near]

    def _lease(self, found: Sequence[tuple[Candidate, float]]) -> None:
        """Keep what a search returns from eviction until it is loaded, for a moment."""
        for candidate, left in found:
            if self._lifetimes is not None:
                self._lifetimes.note(candidate.entry_id, left)
            if self._lease_seconds:
                keys = [(candidate.entry_id, level_of_ref(ref)) for ref in candidate.states]
                self._parts.pins.lease(dict.fromkeys(keys), self._lease_seconds)
