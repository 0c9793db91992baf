"""Takes jobs, draws them, and tells how they stand."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from cache_store.selection import Selection
from cache_store.types import CacheUnavailable
from service.engine.base import Progress
from service.generator import Generator, Picture, Wish
from service.jobs.ledger import SILENT_SECONDS, Ledger
from service.jobs.live import LiveJob, Preview
from service.jobs.postman import Postman
from service.jobs.state import INTERRUPTED, JobError, JobState, JobStatus, PictureProgress
from service.jobs.whole import whole
from service.logs import fields_of
from service.pictures import encode_preview
from service.types import GenerationRequest

log = logging.getLogger(__name__)

_PACE_SECONDS = 1.0
_RENEW_SECONDS = SILENT_SECONDS / 3
_CANCEL_SECONDS = 5.0
_START_SECONDS = 60.0

Finish = Callable[[list[Picture]], Awaitable[dict[str, Any]]]
Explain = Callable[[Exception], JobError]


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a job is to do.

    Attributes:
        requests: its pictures.
        wish: how they are delivered.
        finish: keeps the pictures and returns the answer as it is to be kept.
        explain: says why it failed.
        inline: see `JobState`.
        webhook: likewise.
    """

    requests: tuple[GenerationRequest, ...]
    wish: Wish
    finish: Finish
    explain: Explain
    inline: bool = False
    webhook: str | None = None


class JobDesk:
    """Draws jobs in tasks of its own. The newest states lie here; the ledger's follow within a second.

    Args:
        generator: draws.
        ledger: keeps.
        postman: tells others that a job has ended.
        ended: counts jobs by their final status.
        most: finished jobs remembered here while the catalogue is away.
    """

    def __init__(self, generator: Generator, ledger: Ledger, postman: Postman, ended: Counter, *, most: int) -> None:
        self._generator = generator
        self._ledger = ledger
        self.postman = postman
        self._ended = ended
        self._most = most
        self._jobs: dict[str, LiveJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def start(self, *, all_mine: bool) -> None:
        """Settle, in the background, the jobs that an earlier run of the service left unfinished."""
        self._spawn(self._settle(all_mine))

    async def close(self, grace_seconds: float) -> None:
        """Let jobs finish for so long, then end and record the rest as interrupted."""
        drawing = [job.task for job in self._jobs.values() if job.task is not None and not job.task.done()]
        if drawing:
            await asyncio.wait(drawing, timeout=grace_seconds)
        self._closing = True
        for task in drawing:
            task.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)
        for job in list(self._jobs.values()):
            if await self._try_save(job) == "drop":
                with suppress(CacheUnavailable):
                    await self._drop(job)
        for other in self._tasks:
            other.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, order: JobOrder) -> JobState:
        """Take a job; it holds its places in the queue until it ends.

        Raises:
            QueueFullError: there are none.
        """
        places = ExitStack()
        places.enter_context(self._generator.turnstile.enter(len(order.requests)))
        first = order.requests[0]
        state = JobState(
            id=uuid.uuid4().hex,
            created=time.time(),
            progress=tuple(PictureProgress(steps=one.steps) for one in order.requests),
            pictures=tuple(one.request_id for one in order.requests),
            inline=order.inline,
            webhook=order.webhook,
        )
        job = self._jobs[state.id] = LiveJob(state, first.tenant, first.user, first.request_id)
        # Written before it is promised: a crash right after the answer must not make the job unknown.
        await self._try_save(job)
        job.task = asyncio.create_task(self._draw(job, order, places))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would never give its places back
        if job.dropped:  # forgotten while it was written
            job.task.cancel()
        self._spawn(self._keep(job))
        return job.state

    async def find(self, job_id: str, tenant: str) -> JobState | None:
        """Return `tenant`'s job; none and not yours look the same. Raises CacheUnavailable."""
        job = self._jobs.get(job_id)
        if job is not None and job.tenant == tenant:
            return None if job.dropped else job.state
        return await self._ledger.find(job_id, tenant)

    async def page(self, tenant: str, *, below: int | None, limit: int) -> list[tuple[int, JobState]]:
        """Return `tenant`'s jobs, newest first, each with a number to go on below. Raises CacheUnavailable."""
        found = await self._ledger.page(tenant, below=below, limit=limit)
        mine = {state.id: self._jobs.get(state.id) for _, state in found}
        return [
            (number, state if (job := mine[state.id]) is None else job.state)
            for number, state in found
            if (job := mine[state.id]) is None or not job.dropped
        ]

    async def cancel(self, job_id: str, tenant: str) -> JobState | None:
        """Cancel a job, which takes effect at its next step; one that is final stays as it is.

        A job that another service draws is still as it was when this returns. Raises CacheUnavailable.
        """
        job = self._mine(job_id, tenant)
        if job is None:
            state = await self.find(job_id, tenant)
            if state is not None and not state.status.final:
                await self._ledger.ask(job_id, tenant, "cancel")
            return state
        await self._stop(job)
        return job.state

    async def delete(self, job_id: str, tenant: str) -> bool:
        """Cancel and forget a job and its pictures; return whether it was there.

        Raises:
            CacheUnavailable: it is gone for whoever asks here, and from the catalogue as soon as that is back.
        """
        job = self._jobs.get(job_id)
        if job is not None and job.tenant == tenant:
            await self._drop(job)
            return True
        state = await self._ledger.find(job_id, tenant)
        if state is None:
            return False
        there = True
        if not state.status.final:
            there = await self._ledger.ask(job_id, tenant, "drop")
            state = await self._ledger.find(job_id, tenant)  # it may have ended before it could be asked
        if state is not None and state.status.final:
            await self._ledger.drop(state, tenant)
        return there

    async def forget(self, selection: Selection) -> None:
        """Cancel and forget the jobs drawn here that a selection names by tenant, user and time.

        Those that other services draw are dropped there once the store has forgotten the selection.

        Raises:
            CacheUnavailable: as `delete`.
        """
        if selection.entry_ids is not None:
            return
        meant = [job for job in self._jobs.values() if selection.matches(job.tenant, job.user, job.state.created)]
        for end in await asyncio.gather(*map(self._drop, meant), return_exceptions=True):
            if end is not None:
                raise end

    async def follow(self, job_id: str, tenant: str) -> AsyncGenerator[tuple[JobState, Preview | None] | None, None]:
        """Yield a job's state and preview now and after every change, to the final one; None while nothing changes.

        Ends without a final state when the job is deleted. Raises CacheUnavailable.
        """
        job = self._mine(job_id, tenant)
        if job is not None:
            async for seen in _watched(job):
                yield seen
            return
        version = 0
        while (state := await self.find(job_id, tenant)) is not None:
            yield (state, None) if state.version != version else None
            if state.status.final:
                return
            version = state.version
            await asyncio.sleep(_PACE_SECONDS)

    async def _drop(self, job: LiveJob) -> None:
        first, job.dropped = not job.dropped, True
        await self._stop(job)
        try:
            await self._ledger.drop(job.state, job.tenant)
        except CacheUnavailable:
            if first:
                self._spawn(self._drop_later(job))
            raise
        self._jobs.pop(job.state.id, None)

    async def _drop_later(self, job: LiveJob) -> None:
        while job.state.id in self._jobs:
            await asyncio.sleep(_PACE_SECONDS)
            with suppress(CacheUnavailable):
                await self._drop(job)

    def _mine(self, job_id: str, tenant: str) -> LiveJob | None:
        job = self._jobs.get(job_id)
        return job if job is not None and job.tenant == tenant and not job.dropped else None

    async def _stop(self, job: LiveJob) -> None:
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.wait([job.task], timeout=_CANCEL_SECONDS)

    async def _draw(self, job: LiveJob, order: JobOrder, places: ExitStack) -> None:
        with places:
            end = await self._end(job, order)
            if job.keeping and (job.dropped or end["status"] is not JobStatus.SUCCEEDED):
                with suppress(asyncio.CancelledError):
                    await whole(self._clear(job))
        job.change(**end, finished=time.time(), queue_position=None)
        self._ended.labels(job.state.status.value).inc()
        self.postman.report(job.state)

    async def _end(self, job: LiveJob, order: JobOrder) -> dict[str, Any]:
        try:
            pictures = await self._pictures(job, order)
            job.keeping = True
            return {"status": JobStatus.SUCCEEDED, "result": await whole(order.finish(pictures))}
        except asyncio.CancelledError:
            if self._closing:
                return {"status": JobStatus.FAILED, "error": INTERRUPTED}
            return {"status": JobStatus.CANCELLED}
        except Exception as error:
            return {"status": JobStatus.FAILED, "error": order.explain(error)}

    async def _clear(self, job: LiveJob) -> None:
        """Delete pictures that nobody was told of, later if it cannot be done now."""
        try:
            await self._ledger.clear(job.state, job.tenant)
        except CacheUnavailable:
            self._spawn(self._clear_later(job))

    async def _clear_later(self, job: LiveJob) -> None:
        await asyncio.sleep(_PACE_SECONDS)
        await self._clear(job)

    async def _pictures(self, job: LiveJob, order: JobOrder) -> list[Picture]:
        """Draw all pictures in one joint batch; the first failure cancels the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                drawing = [
                    group.create_task(self._picture(job, index, request, order.wish))
                    for index, request in enumerate(order.requests)
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in drawing]

    async def _picture(self, job: LiveJob, index: int, request: GenerationRequest, wish: Wish) -> Picture:
        async with aclosing(self._generator.stream(request, wish)) as events:
            async for event in events:
                if isinstance(event, Picture):
                    skipped = request.begin + event.verdict.skipped
                    _advance(job, index, PictureProgress(step=request.steps, steps=request.steps, first_step=skipped))
                    return event
                if isinstance(event, Progress):
                    progress = PictureProgress(step=event.step, steps=event.steps, first_step=event.first_step)
                    _advance(job, index, progress)
                    if event.preview is not None:
                        job.show(Preview(index, event.step, await asyncio.to_thread(encode_preview, event.preview)))
        raise RuntimeError("the engine ended without an answer")

    async def _keep(self, job: LiveJob) -> None:
        """Bring the ledger's copy up to date until the final state is in it; do what other services ask."""
        while not job.dropped:
            self._place(job)
            wish = await self._try_save(job)
            if wish and job.task is not None:
                job.task.cancel()
            if wish == "drop":
                with suppress(CacheUnavailable):
                    await self._drop(job)
                return
            if job.state.status.final and job.saved == job.state.version:
                self._jobs.pop(job.state.id, None)
                return
            await self._pause(job)
            self._bound()

    async def _pause(self, job: LiveJob) -> None:
        """Wait until there is something to write, but not so often that every step is; the end waits for nothing."""
        if job.state.status.final:  # the catalogue is away
            await asyncio.sleep(_PACE_SECONDS)
            return
        until = time.monotonic() + _PACE_SECONDS
        while not job.state.status.final and (left := until - time.monotonic()) > 0:
            await job.changed(left)
        if job.state.status is JobStatus.IN_PROGRESS and job.saved == job.state.version:
            await job.changed(_RENEW_SECONDS)

    def _place(self, job: LiveJob) -> None:
        position = self._generator.line.position(job.first_request)
        if job.state.status is JobStatus.QUEUED and position != job.state.queue_position:
            job.change(queue_position=position)

    async def _try_save(self, job: LiveJob) -> str:
        if job.dropped:
            return ""
        try:
            return await self._ledger.save(job)
        except CacheUnavailable:
            return ""

    def _bound(self) -> None:
        """Forget the oldest finished jobs that the catalogue, away for long, has not taken."""
        finished = [job_id for job_id, job in self._jobs.items() if job.state.status.final and not job.dropped]
        for job_id in finished[: -self._most]:
            self._jobs.pop(job_id).dropped = True

    async def _settle(self, all_mine: bool) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                orphans = await self._ledger.orphans(all_mine=all_mine)
                for state, tenant in orphans:
                    if state.id not in self._jobs:
                        self.postman.report(await self._ledger.interrupt(state, tenant))
                return
            except CacheUnavailable:
                await asyncio.sleep(_PACE_SECONDS)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _watched(job: LiveJob) -> AsyncGenerator[tuple[JobState, Preview | None] | None, None]:
    state: JobState | None = None
    preview: Preview | None = None
    while not job.dropped:
        news = job.state is not state or job.preview is not preview
        state, preview = job.state, job.preview
        yield (state, preview) if news else None
        if state.status.final:
            return
        if job.state is state and job.preview is preview:
            await job.changed(_PACE_SECONDS)


def _advance(job: LiveJob, index: int, progress: PictureProgress) -> None:
    state = job.state
    all_of_them: Sequence[PictureProgress] = [*state.progress[:index], progress, *state.progress[index + 1 :]]
    fields: dict[str, Any] = {"progress": tuple(all_of_them)}
    if state.status is JobStatus.QUEUED:
        fields |= {"status": JobStatus.IN_PROGRESS, "started": time.time(), "queue_position": None}
    job.change(**fields)


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:
        log.error("a job's book-keeping failed", extra=fields_of(error))
