"""What is remembered after an answer: behind it, best effort, never an error."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from cache_store.store import CacheStore
from cache_store.types import CacheEntry, CacheUnavailable, FinalState, NoiseState, StoredImage
from policies.matching import ThresholdTable
from service.embedder import Embedder
from service.engine.base import JobResult
from service.forms import Form, kept
from service.keys import inexact_key, text_hash
from service.logs import frames_of
from service.pictures import aside, encode
from service.planner import remembers, resolved_mode
from service.tracing import stage
from service.types import CacheMode, Plan

log = logging.getLogger(__name__)

Written = asyncio.Future[bool] | None
_CLOSE_SECONDS = 10.0


class Memory:
    """Writes finished runs to the store and counts uses, in tasks of its own.

    Args:
        store: where runs are remembered.
        embedder: prompt → vector.
        max_depth: states with a longer chain of resumes behind them are not kept.
        form: what is kept of a run, see `service.forms`.
        table: the threshold table of the served model, which knows what `auto` may keep; None = there is none.
    """

    def __init__(
        self,
        store: CacheStore,
        embedder: Embedder,
        *,
        max_depth: int,
        form: Form = "auto",
        table: ThresholdTable | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._max_depth = max_depth
        self._form: Form = form
        self._adequate = "trajectory" if table is None else table.adequate_form
        self._judged_at = None if table is None else table.judged_at
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """Writes and counts noted and not yet in the store."""
        return len(self._tasks)

    def note_repeat(self, plan: Plan) -> None:
        """Count one use of the stored picture a plan returned."""
        if plan.source is not None:
            self._behind(self._store.touch_image(plan.source.entry_id))

    def note_run(self, plan: Plan, result: JobResult, png: bytes | None) -> bool:
        """Count the state used and remember the run; True when it is queued to be written to a store that is there.

        Args:
            plan: how the run was planned.
            result: what the engine returned.
            png: the picture losslessly encoded, if the answer needed that anyway.
        """
        if result.resumed is not None:
            used = plan.attempts[result.resumed]
            tenant = plan.request.tenant
            self._behind(self._store.touch(used.entry_id, used.state, tenant))
            # All levels of a clean latent are one object: one request is one use of it.
            if result.deeper is not None and used.state.form == "trajectory":
                self._behind(self._store.touch(used.entry_id, used.deeper[result.deeper].state, tenant))
        # What descends from another tenant's state would outlive its deletion, and pass on what is wrong with it.
        foreign = result.resumed is not None and plan.neighbours[result.resumed].foreign
        if foreign or not remembers(plan.request):
            return False
        promised = self._store.accepting
        self._behind(self._written(self._remember(plan, result, png)))
        return promised

    async def flush(self) -> None:
        """Wait until everything noted so far is in the store, or lost."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Let what was noted get into the store, for a few seconds; the rest is lost."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()
        except TimeoutError:
            log.warning("gave up writes to the cache at shutdown")

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_never_raises(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _written(self, remembering: Coroutine[Any, Any, Written]) -> None:
        """Wait for one's own write only, and hold neither latents nor picture meanwhile: the store's queue does."""
        with stage("store") as span:
            written = await remembering
            if written is None:
                span.fail("queue-full")
                log.warning("cache write dropped: the write queue is full")
            elif not await written:
                span.fail("lost")

    async def _remember(self, plan: Plan, result: JobResult, png: bytes | None) -> Written:
        height, width = result.image.shape[:2]
        data = png if png is not None else await aside(height * width, lambda: encode(result.image))
        entry = await self._entry(plan, result)
        states, final = self._kept(plan, result)
        return self._store.try_remember(entry, states, StoredImage(data, width, height), final)

    def _kept(self, plan: Plan, result: JobResult) -> tuple[list[NoiseState], FinalState | None]:
        """Return what runs may resume from; nothing of an edit, unless it says that edits may."""
        edit = plan.request.reference is not None
        if edit and resolved_mode(plan.request) is not CacheMode.APPROXIMATE:
            return [], None
        adequate, judged_at = self._adequate, self._judged_at
        return kept(result, self._form, self._max_depth, adequate=adequate, judged_at=judged_at)

    async def _entry(self, plan: Plan, result: JobResult) -> CacheEntry:
        request = plan.request
        resumed = result.resumed is not None
        depth = 0
        if plan.job is not None and result.resumed is not None:
            depth = plan.job.resume[result.resumed].depth + 1
        return CacheEntry(
            entry_id=0,
            signature=plan.signature.within("public") if request.cache.publishes else plan.signature,
            prompt=request.prompt,
            prompt_hash=text_hash(request.prompt),
            embedding=await self._embedder.embed(request.prompt),
            seed=request.seed,
            steps=request.steps,
            exact_key=inexact_key(plan.exact_key, request.request_id) if resumed else _key_of(plan, result),
            created=time.time(),
            depth=depth,
            gpu_seconds=result.denoise_seconds,
            full_seconds=result.step_seconds * (result.steps - result.begin),
            user=request.user,
            generation=request.request_id,
            noise_seed=await noise_seed_of(self._store, plan, result),
        )


async def noise_seed_of(store: CacheStore, plan: Plan, result: JobResult) -> int | None:
    """Return the seed of the pure noise a finished run began with, at the root of its lineage; None = not known.

    Nor is there one where noise was exchanged on the way.
    """
    if result.resumed is None:
        return plan.request.seed
    if result.diversity:
        return None
    try:
        source = await store.entry(plan.attempts[result.resumed].entry_id, plan.request.tenant)
    except CacheUnavailable:
        return None
    return None if source is None else source.noise_seed


async def _never_raises(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except CacheUnavailable:
        log.debug("cache write lost: the store is unavailable")
    except Exception as error:  # a lost cache write is never an error of a request
        log.error("cache write failed", extra={"error": type(error).__name__, "at": frames_of(error)})


def _key_of(plan: Plan, result: JobResult) -> str:
    """Return the key that a full run's picture answers; where the engine reused nothing, it is the plain picture."""
    cached = result.features is not None and result.features.reason is None
    return plan.exact_key if cached or plan.features.choice is None else plan.plain_key
