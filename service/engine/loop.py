"""The one loop: every tick advances all active jobs by one step, whatever step each of them is at."""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.admission.fair_share import FairShare
from service.engine.admission import WaitingRoom, budget_for, step_pixels
from service.engine.base import MESSAGES, EngineStats, Group, ImageArray, JobEvent, JobFailed, JobSpec, Pipeline
from service.engine.batch import Broken, Done, Evaluator, failure_code, join, shares
from service.engine.decoding import Decoder
from service.engine.features.caches import FeatureCaches
from service.engine.gate import influence, pool_prediction
from service.engine.job import Held, Job
from service.engine.lora import MAX_LORAS, LoraError
from service.engine.peak import Meter, PeakMemory
from service.engine.reference import Easel
from service.engine.stepping import step_rows
from service.engine.stopwatch import Stopwatch
from service.logs import fields_of

logger = logging.getLogger(__name__)

# Weight of the newest tick in the running mean of step seconds.
SMOOTHING = 0.1
# With nothing to step, a tick waits so long for the decoder; a command may have to wait as long.
DECODER_PATIENCE = 0.02


@dataclass(frozen=True, slots=True)
class _Prediction:
    latents: Tensor
    denoised: Tensor
    unguided: Tensor | None
    seconds: float


class StepLoop:
    """Admits jobs up to a budget and advances them together; has one owner, does no I/O.

    Args:
        pipeline: the loaded model.
        max_batch: most jobs that advance together.
        max_pixels: most pixels that advance together, see `admission.budget_for`.
        meter: watches the device's memory, where it is watched.
        max_loras: most LoRAs the pipeline holds at once.
        decode_beside: whether pictures are decoded on another thread, see `Decoder`.
        caches: opens feature caching for jobs; None = over `pipeline`, uncalibrated.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        max_batch: int = 8,
        max_pixels: int = 0,
        meter: Meter | None = None,
        max_loras: int = MAX_LORAS,
        decode_beside: bool = False,
        caches: FeatureCaches | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._forward = Evaluator(max_batch)
        self._decoder = Decoder(pipeline, max_batch, beside=decode_beside)
        self._caches = caches or FeatureCaches(pipeline)
        self._easel = Easel(pipeline)
        budget = budget_for(pipeline.info, max_batch, max_pixels, self._caches.budget)
        self._waiting = WaitingRoom(budget, pipeline.info, max_loras, self._caches.bytes_of)
        self._peak = PeakMemory(meter)
        self._fairness: FairShare[Group] = FairShare()
        self._active: list[Job] = []
        self._decoding: list[Job] = []
        self._events: list[JobEvent] = []
        self._stats = EngineStats(ready=True)

    @property
    def idle(self) -> bool:
        """Whether a tick would do nothing."""
        return not (self._active or self._waiting or self._events or self._decoder.pending)

    @property
    def stats(self) -> EngineStats:
        """A snapshot of counters."""
        active = len(self._active) + len(self._decoding)
        return replace(
            self._stats,
            active=active,
            waiting=len(self._waiting),
            batch_sizes=dict(self._stats.batch_sizes),
            feature_bytes=sum(job.features.nbytes for job in self._active if job.features is not None),
            feature_evaluations=dict(self._stats.feature_evaluations),
        )

    def submit(self, spec: JobSpec, submitted: float) -> None:
        """Queue a job.

        Args:
            spec: the job.
            submitted: time.monotonic() when the client asked.
        """
        self._waiting.add(spec, submitted)

    def cancel(self, job_id: str) -> None:
        """Drop a job, wherever it is; it takes part in no further step and brings no further event."""
        self._waiting.cancel(job_id)
        for job in [*self._active, *self._decoding]:
            if job.spec.job_id == job_id:
                self._leave(job)

    def tick(self) -> list[JobEvent]:
        """Admit, advance one group by one step, hand what is finished to the decoder; return what happened.

        While one shape is in the loop, every job advances at every tick. Several shapes take turns.
        """
        self._expire()
        self._admit()
        if self._active:
            self._advance(self._next_group())
        self._retire()
        self._collect()
        events, self._events = self._events, []
        return events

    def _expire(self) -> None:
        now = time.monotonic()
        for spec in self._waiting.overdue(now):
            self._fail(spec.job_id, "deadline")
        for job in [*self._active, *self._decoding]:
            if job.spec.overdue(now):
                self._drop(job, "deadline")

    def _admit(self) -> None:
        before = len(self._active)
        self._forward.forget({job.spec.group for job in self._active})
        for entering in self._waiting.admit([job.spec for job in self._active]):
            spec, submitted = entering.spec, entering.submitted
            try:
                job = Job.create(spec, submitted, self._pipeline, self._caches, self._easel)
            except torch.AcceleratorError:
                raise
            except LoraError as error:
                self._waiting.settle(spec, 0.0)
                logger.warning("job %s refused (%s)", spec.job_id, error.code, extra=fields_of(error))
                self._events.append(JobFailed(spec.job_id, error.code, str(error)))
                continue
            except Exception as error:
                self._waiting.settle(spec, 0.0)
                logger.error("job %s could not be admitted", spec.job_id, extra=fields_of(error))
                self._fail(spec.job_id, failure_code(error))
                continue
            job.queue_seconds = max(0.0, time.monotonic() - submitted - job.encode_seconds)
            self._active.append(job)
            self._tell(job)
        self._charge_encoding(self._active[before:])

    def _charge_encoding(self, entered: list[Job]) -> None:
        """Let the groups of jobs that have just entered pay for encoding their pictures."""
        self._fairness.keep(job.spec.group for job in self._active)
        for job in entered:
            self._fairness.charge(job.spec.group, job.encode_seconds)

    def _next_group(self) -> list[Job]:
        chosen = self._fairness.pick(job.spec.group for job in self._active)
        return [job for job in self._active if job.spec.group == chosen]

    def _advance(self, group: list[Job]) -> None:
        started = time.perf_counter()
        most = self._most(group)
        for jobs in shares(group):
            for outcome in self._forward.evaluate(jobs, self._predict, most):
                self._take(outcome)
        # What failed and was tried again took its time, too.
        seconds = time.perf_counter() - started
        self._fairness.charge(group[0].spec.group, seconds, len(group))
        pixels = sum(step_pixels(job.spec, self._pipeline.info) for job in group)
        for job in group:
            job.note_tick(seconds, pixels)

    def _take(self, outcome: Done[_Prediction] | Broken) -> None:
        if isinstance(outcome, Broken):
            self._mend(outcome)
            return
        self._account(outcome.jobs, outcome.value.seconds)
        self._settle(outcome.jobs, outcome.value)
        for job in outcome.jobs:
            if job.features is not None and job.features.failed is not None and not job.done:
                self._give_up_features(job, job.features.failed)

    def _mend(self, broken: Broken) -> None:
        """Let a job that failed alone go on without feature caching; one that had none has failed."""
        if broken.job.features is None:
            self._drop(broken.job, broken.code)
            return
        self._give_up_features(broken.job, "error")

    def _give_up_features(self, job: Job, reason: str) -> None:
        logger.warning("job %s goes on without feature caching (%s)", job.spec.job_id, reason)
        if job.give_up_features(reason, self._pipeline):
            self._tell(job)

    def _most(self, group: list[Job]) -> int | None:
        """How many jobs of a group should fit one forward, as far as known; half as many where one is guided."""
        rows = self._peak.most(_size(group[0]))
        return None if rows is None else max(1, rows // (1 + any(job.guided for job in group)))

    def _predict(self, jobs: list[Job]) -> _Prediction:
        for job in jobs:
            job.round_for_capture()
            job.begin_features()
            job.joined |= len(jobs) > 1
        rows = join(jobs)
        # Beside a decoder at work, a peak would not be the denoiser's own; rows that reuse take less than others.
        alike = not self._decoder.pending and not rows.features
        network_rows = sum(1 + job.guided for job in jobs) if alike else 0
        with self._peak.watch(_size(jobs[0]), network_rows), Stopwatch(rows.latents) as watch:
            denoised = _with_kept(jobs, self._pipeline.predict(rows))
        for job in jobs:
            self._commit(job)
        # Only where the gate judges: that is what it is for.
        unguided = self._pipeline.unguided(rows) if any(job.gated_now for job in jobs) else None
        return _Prediction(rows.latents, denoised, unguided, watch.seconds)

    def _commit(self, job: Job) -> None:
        """Keep what feature caching has computed for a job, and count."""
        if job.features is None:
            return
        outcome = "reused" if job.features.commit() else "computed"
        counts = self._stats.feature_evaluations
        counts[outcome] = counts.get(outcome, 0) + 1

    def _account(self, jobs: list[Job], seconds: float) -> None:
        """Share the device time by network rows: a guided job has two, less what feature caching left out."""
        rows = sum(job.network_rows for job in jobs)
        for job in jobs:
            job.charge(seconds * (job.network_rows / rows if rows else 1 / len(jobs)))
        stats, share = self._stats, seconds / len(jobs)
        stats.batch_sizes[len(jobs)] = stats.batch_sizes.get(len(jobs), 0) + 1
        stats.step_seconds += (share - stats.step_seconds) * (SMOOTHING if stats.step_seconds else 1.0)

    def _settle(self, jobs: list[Job], made: _Prediction) -> None:
        """Let the gate judge, keep states, step the rows, and see to rows that went wrong."""
        signatures = _signatures(jobs, made.denoised)
        values = {
            row: job.judge(signatures[row], _influence(job, row, made))
            for row, job in enumerate(jobs)
            if job.gated_now
        }
        stepped, corrected, updates = step_rows(jobs, made.latents, made.denoised)
        finite = torch.isfinite(stepped).flatten(1).all(1).tolist()
        advanced = []
        for row, job in enumerate(jobs):
            if row in values and self._redirect(job, values[row], signatures[row]):
                continue
            if not finite[row]:
                self._rerun(job)
                continue
            if job.exchanges_now and job.exchange(made.denoised[row], self._pipeline):
                self._tell(job)
                continue
            if job.captures_now:
                job.capture(signatures[row])
            job.advance(stepped[row], corrected[row], made.denoised[row], updates[row])
            if job.between_steps:
                advanced.append(job)
        self._report(advanced)

    def _redirect(self, job: Job, value: float, pooled: NDArray[np.float16]) -> bool:
        """Send a judged job deeper or to its next attempt; tell whether it went."""
        if job.goes_deeper(value, pooled, self._pipeline):
            self._tell(job)
            return True
        if job.stays(value):
            job.keep_judged(pooled)
            return False
        self._refuse(job)
        return True

    def _refuse(self, job: Job) -> None:
        job.discard()
        job.next_attempt(self._pipeline)
        self._tell(job)

    def _rerun(self, job: Job) -> None:
        """Give a job whose latent is not finite one more chance, in full."""
        if job.retried:
            self._drop(job, "not-finite")
            return
        logger.warning("job %s: latent not finite at step %d; once more in full", job.spec.job_id, job.index)
        job.discard()
        job.retried = True
        job.caching.forgo("not-finite")
        job.enter_full(self._pipeline)
        self._tell(job)

    def _report(self, jobs: list[Job]) -> None:
        shown = [job for job in jobs if job.wants_preview()]
        for group in _by_shape(shown):
            self._decoder.submit(group, [job.denoised for job in group if job.denoised is not None], preview=True)
        for job in jobs:
            self._tell(job, waits=job.wants_preview())

    def _tell(self, job: Job, *, waits: bool = False) -> None:
        """Tell where a job stands; no event overtakes one that waits for its preview."""
        event = job.progress()
        if waits or job.held:
            job.held.append(Held(event, waits))
        else:
            self._events.append(event)

    def _show(self, job: Job, preview: ImageArray | None) -> None:
        """Complete the first event that waits for its preview, and tell it and what waited behind it."""
        first = next(held for held in job.held if held.waits)
        first.event, first.waits = replace(first.event, preview=preview), False
        while job.held and not job.held[0].waits:
            self._events.append(job.held.pop(0).event)

    def _retire(self) -> None:
        finished = [job for job in self._active if job.done]
        if not finished:
            return
        self._active = [job for job in self._active if not job.done]
        self._decoding += finished
        for job in finished:
            job.caching.close()
        for group in _by_shape(finished):
            self._decoder.submit(group, [job.latent for job in group], preview=False)

    def _collect(self) -> None:
        """Take what the decoder has made; with nothing else to do, wait for it a little."""
        patience = 0.0 if self._active or self._waiting or self._events else DECODER_PATIENCE
        for made in self._decoder.collect(patience):
            job = made.job
            job.decode_seconds += made.seconds
            job.joined |= made.joined and not made.preview
            if job.gone:
                continue
            if made.preview:
                self._show(job, made.image)
            elif made.image is None:
                self._drop(job, made.code)
            else:
                self._leave(job)
                self._events.append(job.result(made.image))

    def _leave(self, job: Job) -> None:
        job.gone = True
        self._waiting.settle(job.spec, job.encode_seconds + job.denoise_seconds + job.decode_seconds)
        job.caching.close()
        self._active = [other for other in self._active if other is not job]
        self._decoding = [other for other in self._decoding if other is not job]

    def _drop(self, job: Job, code: str) -> None:
        self._leave(job)
        self._fail(job.spec.job_id, code)

    def _fail(self, job_id: str, code: str) -> None:
        self._events.append(JobFailed(job_id, code, MESSAGES[code]))


def _with_kept(jobs: list[Job], denoised: Tensor) -> Tensor:
    """Put back what jobs keep of a given picture."""
    if all(job.canvas is None or job.canvas.mask is None for job in jobs):
        return denoised
    return torch.stack([job.with_kept(row) for job, row in zip(jobs, denoised, strict=True)])


def _size(job: Job) -> tuple[int, int]:
    return job.spec.width, job.spec.height


def _signatures(jobs: list[Job], denoised: Tensor) -> dict[int, NDArray[np.float16]]:
    """Pool the predictions of the rows that are judged or kept at this step, in one go."""
    rows = [row for row, job in enumerate(jobs) if job.gated_now or job.captures_now]
    if not rows:
        return {}
    return dict(zip(rows, pool_prediction(denoised[rows]), strict=True))


def _influence(job: Job, row: int, made: _Prediction) -> float | None:
    """What guidance by its prompt changes in a row's prediction; None for a row without guidance."""
    if made.unguided is None or not job.guided:
        return None
    return influence(made.denoised[row], made.unguided[row])


def _by_shape(jobs: list[Job]) -> list[list[Job]]:
    groups: dict[torch.Size, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.latent.shape, []).append(job)
    return list(groups.values())
