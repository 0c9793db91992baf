"""One picture's way: plan, run, encode, remember, count."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from service.admission import Admission, Place, UnreachableError
from service.audit import ShadowAudit
from service.chronicle import Chronicle
from service.engine.base import MESSAGES, Engine, JobFailed, JobResult, JobSpec, Progress
from service.line import Line
from service.memory import Memory
from service.metrics import Metrics
from service.pictures import OutputFormat, aside, encode, transcode
from service.planner import Planner
from service.previews import Previews, paced
from service.refusals import RefusedError
from service.safety import Guard
from service.tenant_totals import TenantTotals
from service.tracing import Span, current, kind_of, stage, within
from service.tracing.run import RunSpans, attributes_of
from service.turnstile import Turnstile
from service.types import GenerationRequest, Plan, Verdict, VerdictKind
from service.verdicts import exact_verdict, foretold, run_verdict, shown

log = logging.getLogger(__name__)


class GenerationFailedError(Exception):
    """The engine could not make the picture; `code` is one of `JobFailed.code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotCachedError(Exception):
    """The client wanted a cached answer or none, and there is none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How the client wants a picture delivered.

    Attributes:
        output_format: encoding of the picture.
        compression: OpenAI's 0 to 100; None = the encoding's own default.
        previews: most pictures in progress to show on the way; they are spread evenly over the steps that run.
    """

    output_format: OutputFormat = "png"
    compression: int | None = None
    previews: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture.

    Attributes:
        data: encoded bytes.
        seed: the seed used.
        verdict: what the cache did.
        stored: whether it is queued to be remembered.
        queue_seconds: wait for the first step.
        denoise_seconds: device time of its steps.
        decode_seconds: device time of its decoding.
        total_seconds: from acceptance to the encoded bytes.
        generation: its id, under which its record is found.
    """

    data: bytes
    seed: int
    verdict: Verdict
    stored: bool
    queue_seconds: float
    denoise_seconds: float
    decode_seconds: float
    total_seconds: float
    generation: str = ""


GenerationEvent = Plan | Progress | Picture


class Generator:
    """Makes pictures; the one place where planner, engine, memory, chronicle and metrics meet."""

    def __init__(
        self,
        planner: Planner,
        engine: Engine,
        memory: Memory,
        chronicle: Chronicle,
        metrics: Metrics,
        totals: TenantTotals,
        turnstile: Turnstile,
        *,
        admission: Admission,
        guard: Guard,
        audit: ShadowAudit | None = None,
        log_prompts: bool = False,
    ) -> None:
        self._planner = planner
        self._engine = engine
        self._memory = memory
        self._chronicle = chronicle
        self._metrics = metrics
        self._totals = totals
        self.turnstile = turnstile
        self.admission = admission
        self.line = Line()
        self._guard = guard
        self._audit = audit
        self._log_prompts = log_prompts

    async def generate(self, request: GenerationRequest, wish: Wish) -> Picture:
        """Return the finished picture.

        Raises:
            GenerationFailedError: the engine gave up.
            NotCachedError: `only-if-cached`, and nothing fits.
            RefusedError: there is no room for it now.
            CheckerBehindError: the safety checker has no room for it now.
            PictureFlaggedError: the safety checker does not let it pass.
            PictureUncheckedError: nor does it say that it may not.
        """
        async with aclosing(self.stream(request, wish)) as events:
            async for event in events:
                if isinstance(event, Picture):
                    return event
        raise GenerationFailedError("internal", "the engine ended without an answer")

    async def stream(self, request: GenerationRequest, wish: Wish) -> AsyncGenerator[GenerationEvent, None]:
        """Yield the plan, then progress, then exactly one `Picture`; who is refused does not get as far as the plan.

        Closing the iterator (or cancelling its task) cancels the job at its next step.
        """
        way = _Way("planning", time.perf_counter(), current().child("picture"))
        try:
            veiled = request.cache.reads_public
            # What a picture looks like on the way tells where it began; nor has a checker let it pass yet.
            if veiled or self._guard.version:
                wish = replace(wish, previews=0)
            plan = self.admission.mark(paced(await self._plan(request, way), wish.previews))
            _refuse_if_uncached(request, hit=plan.kind in (VerdictKind.EXACT, VerdictKind.APPROX))
            async with AsyncExitStack() as inside:
                if plan.job is not None:  # what cannot be judged in time is not drawn
                    inside.enter_context(self._guard.expecting(self.admission.drawn))
                with within(way.span), stage("admission"):
                    place = await inside.enter_async_context(self.admission.enter(plan))
                inside.callback(self._note_spent, plan, place)
                yield foretold(plan)
                async with aclosing(self._make(plan, wish, way, place)) as events:
                    async for event in events:
                        if not (veiled and isinstance(event, Progress)):  # their number tells how many were skipped
                            yield event
        except UnreachableError:
            way.span.fail("deadline")
            raise GenerationFailedError("deadline", MESSAGES["deadline"]) from None
        except BaseException as error:
            self._note_end(way, error)
            raise
        finally:
            way.span.end()

    def _note_end(self, way: "_Way", error: BaseException) -> None:
        """Note a picture that was not answered, or one whose client went right after it."""
        if way.place == "answered":
            return
        if way.place == "denoise" and way.run is not None:
            way.run.fail(_kind(error))
        way.span.fail(_kind(error))
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._metrics.cancelled.labels(way.place).inc()

    def _note_spent(self, plan: Plan, place: Place | None) -> None:
        if place is not None:
            self._totals.note_spent(plan, place.spent)

    async def _plan(self, request: GenerationRequest, way: "_Way") -> Plan:
        with within(way.span), stage("plan"):
            plan = await self._planner.plan(request)
        for name, seconds in plan.seconds.items():
            self._metrics.stage.labels(name).observe(seconds)
        return plan

    async def _make(
        self, plan: Plan, wish: Wish, way: "_Way", place: Place | None
    ) -> AsyncGenerator[Progress | Picture, None]:
        if plan.job is None or place is None:
            way.place = "encode"
            with within(way.span):
                picture = await self._repeat(plan, wish, way)
            way.place = "answered"
            yield picture
            return
        way.place = "denoise"
        way.run = RunSpans(way.span)
        previews = Previews(wish.previews)
        with self.line.waiting(plan.request.request_id):
            async with aclosing(self._run(plan, plan.job)) as events:
                async for event in events:
                    way.run.note(event)
                    self.line.leave(plan.request.request_id)
                    place.note(event)
                    if isinstance(event, Progress):
                        yield previews.screen(event)
                        continue
                    way.place = "encode"
                    self.admission.learn(place, event)
                    verdict = run_verdict(plan, event)
                    way.run.finish(event, verdict)
                    with within(way.span):
                        picture = await self._finish(plan, event, verdict, wish, way)
                    way.place = "answered"
                    yield picture

    async def _run(self, plan: Plan, job: JobSpec) -> AsyncGenerator[Progress | JobResult, None]:
        async with aclosing(self._engine.run(job)) as events:
            async for event in events:
                if isinstance(event, JobFailed):
                    raise GenerationFailedError(event.code, event.message)
                if isinstance(event, Progress):
                    # The gate may refuse every state; then the run starts again from pure noise.
                    _refuse_if_uncached(plan.request, hit=event.first_step > plan.request.begin)
                yield event

    async def _repeat(self, plan: Plan, wish: Wish, way: "_Way") -> Picture:
        assert plan.image is not None
        assert plan.source is not None
        image, request = plan.image.data, plan.request
        entry = (plan.source.entry_id, request.tenant)
        await self._guard.pass_entry(self._planner.store, *entry, plan.image, request.prompt)
        data = await self._encoded(request, lambda: transcode(image, wish.output_format, wish.compression))
        self._memory.note_repeat(plan)
        verdict = exact_verdict(plan)
        self._chronicle.note_repeat(plan, verdict, image)
        picture = Picture(data, request.seed, verdict, False, 0.0, 0.0, 0.0, way.elapsed, request.request_id)
        return self._answer(plan.request, picture)

    async def _encoded(self, request: GenerationRequest, work: Callable[[], bytes]) -> bytes:
        started = time.perf_counter()
        with stage("encode"):
            data = await aside(request.width * request.height, work)
        self._metrics.stage.labels("encode").observe(time.perf_counter() - started)
        return data

    async def _finish(self, plan: Plan, result: JobResult, verdict: Verdict, wish: Wish, way: "_Way") -> Picture:
        self._metrics.note_run(result)
        await self._guard.pass_drawn(result.image, plan.request.prompt)
        data = await self._encoded(plan.request, lambda: encode(result.image, wish.output_format, wish.compression))
        png = data if wish.output_format == "png" else None
        stored = self._memory.note_run(plan, result, png)
        self._totals.note_run(plan.request, verdict, result)
        self._chronicle.note_run(plan, verdict, result)
        if self._audit is not None:
            self._audit.offer(plan, result, png)
        return self._answer(
            plan.request,
            Picture(
                data=data,
                seed=plan.request.seed,
                verdict=verdict,
                stored=stored,
                queue_seconds=result.queue_seconds,
                denoise_seconds=result.denoise_seconds,
                decode_seconds=result.decode_seconds,
                total_seconds=way.elapsed,
                generation=plan.request.request_id,
            ),
        )

    def _answer(self, request: GenerationRequest, picture: Picture) -> Picture:
        self._metrics.note_verdict(picture.verdict)
        self._metrics.tenants.note(request.tenant, picture.verdict)
        self._metrics.stage.labels("total").observe(picture.total_seconds)
        self._totals.note_verdict(request, picture.verdict)
        current().note(attributes_of(picture.verdict))
        log.info("picture", extra=self._log_fields(request, picture))
        told = shown(request, picture.verdict)
        return replace(picture, verdict=told, denoise_seconds=0.0 if told.hidden else picture.denoise_seconds)

    def _log_fields(self, request: GenerationRequest, picture: Picture) -> dict[str, object]:
        verdict = picture.verdict
        fields: dict[str, object] = {
            "generation": request.request_id,
            "verdict": verdict.kind.value,
            "reason": verdict.reason,
            "steps": verdict.steps,
            "skipped": verdict.skipped,
            "wasted": verdict.wasted,
            "similarity": verdict.similarity,
            "divergence": verdict.divergence,
            "features": verdict.features.policy,
            "compute_share": verdict.features.compute_share,
            "queue_seconds": round(picture.queue_seconds, 4),
            "denoise_seconds": round(picture.denoise_seconds, 4),
            "decode_seconds": round(picture.decode_seconds, 4),
            "total_seconds": round(picture.total_seconds, 4),
            "saved_gpu_seconds": round(verdict.saved_gpu_seconds, 4),
        }
        if self._log_prompts:
            fields |= {"prompt": request.prompt, "source_prompt": verdict.source_prompt}
        return fields


@dataclass
class _Way:
    """Where a picture is on its way, for the count of cancellations, and its spans."""

    place: str
    started: float
    span: Span
    run: RunSpans | None = None

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started


def _kind(error: BaseException) -> str:
    if isinstance(error, RefusedError):
        return error.reason
    return error.code if isinstance(error, GenerationFailedError) else kind_of(error)


def _refuse_if_uncached(request: GenerationRequest, *, hit: bool) -> None:
    if request.cache.only_if_cached and not hit:
        raise NotCachedError("nothing in the cache fits this request")
