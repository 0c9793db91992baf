"""Lets planned pictures in, or tells them when to come back: policy, quota, promises and measurements meet here."""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from policies.admission import AdmissionPolicy, Ask, Decision, Load, Work
from policies.admission.base import MARGIN
from policies.admission.forecast import Finish, forecast
from policies.admission.promises import Promise, PromiseBook
from policies.admission.queue_limit import places_free
from service.engine.base import JobResult, JobSpec, ModelInfo, Progress
from service.metrics import Metrics
from service.pace import RunPace
from service.quota import Quota
from service.refusals import RefusedError
from service.tenant_limits import TenantLimits
from service.types import GenerationRequest, Plan

EVERYBODY = TenantLimits()
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Bounds in seconds on how long someone stands at the door before the question is asked again."""


class UnreachableError(Exception):
    """The deadline is too short for this picture even with the device to itself."""


class Place:
    """A picture that was let in, and how far it is.

    Args:
        spec: what the engine runs.
        work: what it takes, as predicted.
        predicted: seconds until its finish, as predicted on arrival; 0 = unknown.
        allowed: seconds it may take.

    Attributes:
        spent: device seconds it took so far, as measured; steps thrown away are among them.
    """

    def __init__(self, spec: JobSpec, work: Work, predicted: float, allowed: float) -> None:
        self.spec = spec
        self.work = work
        self._left = work
        self._allowed = allowed
        self.since = time.monotonic()
        self.predicted = predicted
        self.spent = 0.0
        self.result: JobResult | None = None

    def note(self, event: Progress | JobResult) -> None:
        """Note how far the picture is."""
        if isinstance(event, JobResult):
            self.result = event
            self.spent = event.device_seconds
            return
        self.spent = event.encode_seconds + event.denoise_seconds
        per_step = self.work.steps / max(1, self.spec.foreseen_steps)
        self._left = replace(self.work, steps=(event.steps - event.step) * per_step, entered=True)

    @property
    def left(self) -> Work:
        """What is left to do, and how long it may take."""
        return replace(self._left, due=self.since + self._allowed - time.monotonic())


class Admission:
    """Decides on arrival, from what is inside and what the plan says.

    Args:
        policy: decides.
        info: the served model.
        quota: bounds tenants.
        metrics: where predictions are compared with what came true.
        slots: most pictures that step together.
        pixels: most pixels they work on.
        promises: most clients that can be told a time to come back, see `PromiseBook`.
        limits: what differs by tenant.
    """

    def __init__(
        self,
        policy: AdmissionPolicy,
        info: ModelInfo,
        quota: Quota,
        metrics: Metrics,
        *,
        slots: int,
        pixels: int,
        promises: int,
        limits: Mapping[str, TenantLimits],
    ) -> None:
        self._policy = policy
        self._quota = quota
        self._metrics = metrics
        self._slots = slots
        self._pixels = pixels
        self._limits = limits
        self._beside = info.device != "cpu"
        self._pace = RunPace(info)
        self._book = PromiseBook(promises)
        self._places: dict[str, Place] = {}

    def mark(self, plan: Plan) -> Plan:
        """Return the plan with a job that names its tenant, and the tenant's weight."""
        if plan.job is None:
            return plan
        tenant = plan.request.tenant
        weight = self._limits.get(tenant, EVERYBODY).weight
        return replace(plan, job=replace(plan.job, tenant=tenant, weight=weight))

    @asynccontextmanager
    async def enter(self, plan: Plan) -> AsyncIterator[Place | None]:
        """Hold a place for a picture; None for one that needs no run.

        Raises:
            RefusedError: there is no room for it now, or its tenant's quota is used up.
            UnreachableError: its deadline cannot be met by any load.
        """
        if plan.job is None:
            yield None
            return
        async with self._charged(plan.job, plan.request.tenant) as charge:
            place = charge.place = await self._let_in(plan.request, plan.job, charge.work)
            try:
                yield place
            finally:
                del self._places[plan.job.job_id]

    @asynccontextmanager
    async def charge(self, spec: JobSpec) -> AsyncIterator[Place]:
        """Let its tenant's quota pay for a run that no policy decides on; it pays for what the place hears of.

        Raises:
            RefusedError: the quota is used up.
        """
        async with self._charged(spec, spec.tenant) as charge:
            charge.place = Place(spec, charge.work, 0.0, math.inf)
            yield charge.place

    @asynccontextmanager
    async def _charged(self, spec: JobSpec, tenant: str) -> AsyncIterator["_Charge"]:
        charge = _Charge(self._pace.work(spec))
        booked = self._pace.device_seconds(charge.work)
        span = await self._quota.book(tenant, booked)
        try:
            yield charge
        finally:
            spent = 0.0 if charge.place is None else charge.place.spent
            if charge.place is not None:
                self._count(tenant, charge.place)
            if span is not None:
                await self._quota.correct(span, spent - booked)

    def learn(self, place: Place, result: JobResult) -> None:
        """Learn from a finished run, and compare it with what was predicted."""
        self._pace.learn(place.spec, result)
        if place.predicted:
            self._metrics.finish_ratio.observe((time.monotonic() - place.since) / place.predicted)

    def wait_for(self, pictures: int) -> float:
        """Return when so many of the pictures inside will be finished, in seconds."""
        return places_free(self._load(()), pictures)

    @property
    def backlog_seconds(self) -> float:
        """Predicted time until everything inside is finished."""
        return max(self.drawn(), default=0.0)

    def drawn(self) -> list[float]:
        """Return when each picture inside will be drawn, as predicted, in seconds."""
        return [finish.done for finish in self._forecast()]

    def _forecast(self) -> list[Finish]:
        return forecast(self._load(()))

    async def _let_in(self, request: GenerationRequest, spec: JobSpec, work: Work) -> Place:
        """Decide; who came back when told to stands at the door while it can still be in time.

        Batches share the device: one more, too early, makes those inside late who would else be in time. Sent away
        again, it would have been told an untruth for the sake of a moment.
        """
        came = now = time.monotonic()
        full = self._pace.work(spec, uncached=True).steps
        while True:
            promise = self._book.find(wish_key(request), now)
            due = promise if promise is not None and promise.due <= now else None
            load = self._load(self._book.works(now, None if due is None else due.due))
            allowed = math.inf if spec.deadline is None else spec.deadline - now
            decision = self._policy.decide(Ask(work, full, allowed, now - came), load)
            pause = min(max(decision.retry_seconds, SHORTEST_PAUSE), LONGEST_PAUSE)
            if decision.admitted or due is None or not _in_time(decision, pause) or now + pause >= due.lapses:
                break
            await asyncio.sleep(pause)
            now = time.monotonic()
        if due is not None:
            self._metrics.returned.labels("admitted" if decision.admitted else "refused").inc()
        if not decision.admitted:
            self._refuse(request, work, decision, promise, due)
        if promise is not None:
            self._book.keep(promise)
        place = self._places[spec.job_id] = Place(spec, work, decision.finish_seconds, decision.allowed_seconds)
        return place

    def _refuse(
        self, request: GenerationRequest, work: Work, decision: Decision, promise: Promise | None, due: Promise | None
    ) -> None:
        if math.isinf(decision.retry_seconds):
            raise UnreachableError
        now = time.monotonic()
        if promise is not None and due is None:
            raise RefusedError(decision.reason, promise.due - now)
        refusal = RefusedError(decision.reason, decision.retry_seconds)
        if due is not None:
            self._book.keep(due)
        self._book.make(wish_key(request), work, now, refusal.retry_after)
        raise refusal

    def _load(self, promised: tuple[Work, ...]) -> Load:
        jobs = tuple(place.left for place in self._places.values())
        return Load(jobs, self._slots, self._pace.step, self._pixels, self._beside, promised)

    def _count(self, tenant: str, place: Place) -> None:
        self._metrics.tenants.spend(tenant, place.spent)
        if place.result is None:
            self._metrics.given_up.inc(place.spent)


def _in_time(decision: Decision, pause: float) -> bool:
    return decision.finish_seconds + pause <= MARGIN * decision.allowed_seconds


@dataclass
class _Charge:
    """What a run takes, as predicted, and where it is heard of; None = it was not let in."""

    work: Work
    place: Place | None = None


def wish_key(request: GenerationRequest) -> bytes:
    """Return what the same wish of the same tenant has in common when it is sent again; holds no text."""
    wish = replace(request, request_id="", deadline=None, seed=request.seed if request.seed_given else 0)
    return hashlib.blake2b(repr(wish).encode(errors="surrogatepass"), digest_size=16).digest()
