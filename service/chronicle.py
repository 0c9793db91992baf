"""Keeps how each picture came about: behind its answer, best effort, lost without harm."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from cache_store.generations import GenerationRecord
from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable
from service.engine.base import ImageArray, JobResult
from service.logs import frames_of
from service.pictures import aside, decode
from service.provenance import dump, provenance_of
from service.types import Plan, Verdict

log = logging.getLogger(__name__)

# Pictures that may wait to be hashed; each is held in memory meanwhile.
MOST_WAITING = 64
_CLOSE_SECONDS = 5.0


class Chronicle:
    """Writes records of answered pictures, in tasks of its own.

    Args:
        store: where records lie.
        versions: see `provenance.versions_of`.
        kept: whether records are kept at all.
    """

    def __init__(self, store: CacheStore, versions: Mapping[str, str], *, kept: bool = True) -> None:
        self.versions = versions
        self._store = store
        self._kept = kept
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def note_run(self, plan: Plan, verdict: Verdict, result: JobResult) -> None:
        """Keep how a run's picture came about."""
        self._note(plan, verdict, result, lambda: result.image)

    def note_repeat(self, plan: Plan, verdict: Verdict, png: bytes) -> None:
        """Keep that a stored picture was returned."""
        self._note(plan, verdict, None, lambda: decode(png))

    async def settled(self, generation: str) -> None:
        """Wait until a record just noted is written, or lost."""
        task = self._waiting.get(generation)
        if task is not None:
            await asyncio.wait([task])

    async def close(self) -> None:
        """Let what was noted be written, for a few seconds; the rest is lost."""
        if self._waiting:
            _, late = await asyncio.wait(list(self._waiting.values()), timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _note(self, plan: Plan, verdict: Verdict, result: JobResult | None, pixels: Callable[[], ImageArray]) -> None:
        if not self._kept:
            return
        if len(self._waiting) >= MOST_WAITING:
            log.warning("a record of a generation was dropped: too many wait")
            return
        generation = plan.request.request_id
        task = asyncio.create_task(self._write(plan, verdict, result, pixels, time.monotonic()))
        self._waiting[generation] = task
        task.add_done_callback(lambda _: self._waiting.pop(generation, None))

    async def _write(
        self,
        plan: Plan,
        verdict: Verdict,
        result: JobResult | None,
        pixels: Callable[[], ImageArray],
        noted: float,
    ) -> None:
        try:
            request = plan.request
            found = await aside(
                request.width * request.height,
                lambda: provenance_of(plan, verdict, result, pixels(), self.versions),
            )
            record = GenerationRecord(
                request.request_id,
                request.tenant,
                request.user,
                dump(found),
                found.repeats,
                noted,
                source=None if found.hidden else found.source,
            )
            await self._store.record_generation(record)
        except CacheUnavailable:
            log.debug("a record of a generation was lost: the store is unavailable")
        except Exception as error:  # a lost record is never an error of a request
            log.error("a record was lost", extra={"error": type(error).__name__, "at": frames_of(error)})
