"""The shadow audit: in idle time, a sampled share of approximate hits is drawn again in full, and a judge compares.

The full run starts from the very noise the hit's lineage started from, not from the noise of the hit's own seed. So a
hit of the same text comes out as its full run does, and what luck the starting noise brings counts for neither.

Nothing here is on a request's way: hits are offered after their answer, wait in a bounded queue, run only while no
client does, and give way at the step after one has come. Audit runs are never stored and count as nobody's requests.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from cache_store.store import CacheStore
from policies.matching.audit import AuditController, AuditedHit, outcome_of
from policies.matching.watch import Outcome
from service.audit_metrics import AuditMetrics
from service.audit_notebook import AuditNotebook
from service.engine.base import Engine, ImageArray, JobResult, JobSpec, Progress
from service.judges import JudgeError, SharedJudge
from service.logs import fields_of
from service.memory import noise_seed_of
from service.pictures import decode, encode
from service.planner import remembers
from service.turnstile import Turnstile
from service.types import Plan

log = logging.getLogger(__name__)

QUEUE_LIMIT = 32
"""Hits that may wait, each with its picture as PNG."""
IDLE_SECONDS = 0.5
"""How long no client may have been there before an audit begins."""
_LONGEST_IDLE = 16.0


@dataclass(frozen=True, slots=True)
class Case:
    """A hit that waits for its audit.

    Attributes:
        reference: the full run of the same prompt, from the noise the hit's lineage started from.
        png: the picture delivered.
        similarity: of the two prompts.
        skip: share of the source's steps before the state entered.
        same_text: whether the prompts are the same text.
        divergence: the gate's value, None where it did not judge.
        interruptions: how often a client came in between.
    """

    reference: JobSpec
    png: bytes
    similarity: float
    skip: float
    same_text: bool
    divergence: float | None
    interruptions: int = 0


class ShadowAudit:
    """Samples finished approximate hits and audits them in idle time; belongs to one event loop.

    Args:
        controller: learns from what is found.
        engine: draws the full runs.
        store: knows which noise an entry began with.
        turnstile: knows whether a client is there.
        metrics: where findings are counted.
        notebook: where the controller's state outlives the service.
        judge: compares the pictures.
        share: of approximate hits to audit, in [0, 1].
        chance: source of the sampling.
    """

    def __init__(
        self,
        controller: AuditController,
        engine: Engine,
        store: CacheStore,
        turnstile: Turnstile,
        metrics: AuditMetrics,
        notebook: AuditNotebook,
        *,
        judge: SharedJudge,
        share: float,
        chance: random.Random | None = None,
    ) -> None:
        self.controller = controller
        self.judge = judge.name
        self.share = share
        self.complaint: str | None = None
        self._engine = engine
        self._store = store
        self._turnstile = turnstile
        self._metrics = metrics
        self._notebook = notebook
        self._chance = chance or random.Random()
        self._queue: deque[Case] = deque()
        self._waiting = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._judge = judge
        self._number = 0
        self._working = False
        self._worker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Hits that wait, the one in work included."""
        return len(self._queue) + len(self._tasks) + self._working

    def start(self) -> None:
        """Begin to audit; the controller takes over what it had learnt."""
        self._notebook.read(self.controller)
        self._show()
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop at once; hits that still wait are not audited."""
        tasks = [*self._tasks, *([self._worker] if self._worker is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def order(self, *, frozen: bool | None = None, reset: bool = False) -> None:
        """Freeze or free the factors, and forget all hits if so told."""
        if frozen is not None:
            self.controller.frozen = frozen
        if reset:
            self.controller.reset()
        self._show()
        await self._notebook.write(self.controller)

    def offer(self, plan: Plan, result: JobResult, png: bytes | None) -> None:
        """Take an answered picture into the sample, or leave it; never raises, never waits.

        What may not be remembered is not audited either, nor what was drawn with noise exchanged: it has no full run
        from the same noise, and its quality is the client's wish, not the table's promise.

        Args:
            plan: how it was planned.
            result: what the engine returned.
            png: the picture losslessly encoded, if the answer needed that anyway.
        """
        hit = result.resumed is not None and not result.diversity
        sampled = hit and self._chance.random() < self.share
        if not sampled or self.complaint is not None or not remembers(plan.request):
            return
        if self.queued >= QUEUE_LIMIT:
            self._metrics.dropped.labels("full").inc()
            return
        task = asyncio.create_task(self._guarded(self._take(plan, result, png)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, plan: Plan, result: JobResult, png: bytes | None) -> None:
        seed = await noise_seed_of(self._store, plan, result)
        if plan.job is None or seed is None:
            self._metrics.dropped.labels("source-gone").inc()
            return
        self._number += 1
        data = png if png is not None else await asyncio.to_thread(encode, result.image)
        self._queue.append(_case(plan, plan.job, result, data, seed, self._number))
        self._waiting.set()
        self._metrics.queue.set(len(self._queue))

    async def _work(self) -> None:
        while self.complaint is None:
            await self._waiting.wait()
            case, self._working = self._queue.popleft(), True
            await self._quiet(min(_LONGEST_IDLE, IDLE_SECONDS * 2 ** min(case.interruptions, 10)))
            await self._guarded(self._audit(case))
            self._working = False
            if not self._queue:
                self._waiting.clear()
            self._metrics.queue.set(len(self._queue))

    async def _quiet(self, seconds: float) -> None:
        """Wait until no client has been there for so long and the engine takes jobs."""
        while True:
            await self._turnstile.until_empty()
            try:
                async with asyncio.timeout(seconds):
                    await self._turnstile.until_occupied()
            except TimeoutError:
                if self._engine.stats.ready:
                    return

    async def _audit(self, case: Case) -> None:
        full = await self._undisturbed(case.reference)
        if full is None:
            self._queue.appendleft(replace(case, interruptions=case.interruptions + 1))
            self._metrics.interrupted.inc()
            return
        outcome = await self._compare(case, full.image)
        if outcome is not None:
            await self._note(AuditedHit(case.similarity, case.skip, case.same_text, case.divergence, outcome))

    async def _undisturbed(self, spec: JobSpec) -> JobResult | None:
        """Draw, unless a client comes: None, and the job leaves the engine at its next step."""
        drawing = asyncio.ensure_future(self._draw(spec))
        client = asyncio.ensure_future(self._turnstile.until_occupied())
        try:
            await asyncio.wait((drawing, client), return_when=asyncio.FIRST_COMPLETED)
            return drawing.result() if drawing.done() else None
        finally:
            drawing.cancel()
            client.cancel()
            await asyncio.gather(drawing, client, return_exceptions=True)

    async def _draw(self, spec: JobSpec) -> JobResult:
        spent = 0.0
        try:
            async with aclosing(self._engine.run(spec)) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        spent = event.encode_seconds + event.denoise_seconds
                    elif isinstance(event, JobResult):
                        self._metrics.gpu.inc(event.device_seconds)
                        return event
                    else:
                        raise _FailedError(event.code)
        except asyncio.CancelledError:
            self._metrics.gpu.inc(spent)
            raise
        raise _FailedError("no answer")

    async def _compare(self, case: Case, full: ImageArray) -> Outcome | None:
        """Judge both pictures; None where the judge cannot."""
        try:
            delivered, reference, loss = await asyncio.to_thread(self._scores, case, full)
        except JudgeError as error:
            self.complaint = str(error)
            self._queue.clear()
            log.warning("no audits: %s", error)
            return None
        if not (delivered == delivered and reference == reference):
            self._metrics.dropped.labels("unjudged").inc()
            return None
        return outcome_of(delivered, reference, loss)

    def _scores(self, case: Case, full: ImageArray) -> tuple[float, float, float]:
        prompt = case.reference.prompt
        with self._judge.lent() as judge:
            delivered, reference = judge.score([decode(case.png), full], [prompt, prompt]).tolist()
            return delivered, reference, judge.loss

    async def _note(self, hit: AuditedHit) -> None:
        moved = self.controller.note(hit)
        self._metrics.note(hit, self.controller.level(hit.skip))
        for move in moved:
            log.warning("the bounds of approximate hits moved", extra=_fields(move.watch, move.change, move.factor))
        self._show()
        await self._notebook.write(self.controller)

    def _show(self) -> None:
        self._metrics.show(self.controller)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # an audit is never worth more than what it watches
            self._metrics.dropped.labels("failed").inc()
            log.error("an audit failed", extra=fields_of(error))


class _FailedError(Exception):
    """The engine could not draw a full run."""


def _case(plan: Plan, job: JobSpec, result: JobResult, png: bytes, seed: int, number: int) -> Case:
    assert result.resumed is not None
    attempt, source = plan.attempts[result.resumed], plan.neighbours[result.resumed]
    state = attempt.state if result.deeper is None else attempt.deeper[result.deeper].state
    divergence = result.divergences[result.resumed] if len(result.divergences) > result.resumed else float("nan")
    return Case(
        reference=replace(job, job_id=f"audit-{number}", seed=seed, resume=(), preview_every=0, deadline=None),
        png=png,
        similarity=attempt.similarity,
        skip=state.skip,
        same_text=source.prompt == plan.request.prompt,
        divergence=divergence if divergence == divergence else None,
    )


def _fields(level: str, change: str, factor: float) -> dict[str, object]:
    return {"level": level, "change": change, "factor": factor}
