"""The one loop: every tick advances all active jobs by one step, whatever step each of them is at."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.base import EngineStats, ImageArray, JobEvent, JobFailed, JobSpec, Pipeline
from service.engine.batch import Broken, Evaluator, failure_code, join
from service.engine.gate import pool_prediction
from service.engine.job import Job
from service.engine.stepping import step_rows
from service.logs import fields_of

logger = logging.getLogger(__name__)

MESSAGES = {
    "out-of-memory": "the device has too little memory for this picture",
    "not-finite": "the model produced values that are not finite",
    "internal": "the engine could not finish this picture",
}
# Weight of the newest tick in the running mean of step seconds.
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class _Prediction:
    latents: Tensor
    denoised: Tensor
    seconds: float


class StepLoop:
    """Admits jobs up to a budget and advances them together; single-threaded, does no I/O.

    Args:
        pipeline: the loaded model.
        max_batch: most jobs that advance together.
    """

    def __init__(self, pipeline: Pipeline, *, max_batch: int = 8) -> None:
        self._pipeline = pipeline
        self._max_batch = max_batch
        self._forward = Evaluator(max_batch)
        self._decoder = Evaluator(max_batch)
        self._waiting: deque[tuple[JobSpec, float]] = deque()
        self._active: list[Job] = []
        self._events: list[JobEvent] = []
        self._stats = EngineStats(ready=True)

    @property
    def idle(self) -> bool:
        """Whether a tick would do nothing."""
        return not (self._active or self._waiting or self._events)

    @property
    def stats(self) -> EngineStats:
        """A snapshot of counters."""
        sizes = dict(self._stats.batch_sizes)
        return replace(self._stats, active=len(self._active), waiting=len(self._waiting), batch_sizes=sizes)

    def submit(self, spec: JobSpec, submitted: float) -> None:
        """Queue a job.

        Args:
            spec: the job.
            submitted: time.monotonic() when the client asked.
        """
        self._waiting.append((spec, submitted))

    def cancel(self, job_id: str) -> None:
        """Drop a job, waiting or active; it takes part in no further step."""
        self._waiting = deque(item for item in self._waiting if item[0].job_id != job_id)
        self._active = [job for job in self._active if job.spec.job_id != job_id]

    def tick(self) -> list[JobEvent]:
        """Admit, advance every active job by one step, retire what is finished; return what happened."""
        self._admit()
        for group in _by_shape(self._active):
            self._advance(group)
        self._retire()
        events, self._events = self._events, []
        return events

    def _admit(self) -> None:
        if not self._active:
            self._forward.reset()
            self._decoder.reset()
        while self._waiting and len(self._active) < self._max_batch:
            spec, submitted = self._waiting.popleft()
            try:
                job = Job.create(spec, submitted, self._pipeline)
            except torch.AcceleratorError:
                raise
            except Exception as error:
                logger.error("job %s could not be admitted", spec.job_id, extra=fields_of(error))
                self._fail(spec.job_id, failure_code(error))
                continue
            job.queue_seconds = time.monotonic() - submitted
            self._active.append(job)
            self._events.append(job.progress())

    def _advance(self, group: list[Job]) -> None:
        for outcome in self._forward.evaluate(group, self._predict):
            if isinstance(outcome, Broken):
                self._drop(outcome.job, outcome.code)
            else:
                self._account(outcome.jobs, outcome.value.seconds)
                self._settle(outcome.jobs, outcome.value)

    def _predict(self, jobs: list[Job]) -> _Prediction:
        for job in jobs:
            job.round_for_capture()
        rows = join(jobs)
        with _Stopwatch(rows.latents) as watch:
            denoised = self._pipeline.predict(rows)
        return _Prediction(rows.latents, denoised, watch.seconds)

    def _account(self, jobs: list[Job], seconds: float) -> None:
        """Share the device time by network rows: a guided job has two."""
        rows = sum(1 + job.guided for job in jobs)
        for job in jobs:
            job.charge(seconds * (1 + job.guided) / rows)
        stats, share = self._stats, seconds / len(jobs)
        stats.batch_sizes[len(jobs)] = stats.batch_sizes.get(len(jobs), 0) + 1
        stats.step_seconds += (share - stats.step_seconds) * (SMOOTHING if stats.step_seconds else 1.0)

    def _settle(self, jobs: list[Job], made: _Prediction) -> None:
        """Let the gate judge, keep states, step the rows, and see to rows that went wrong."""
        signatures = _signatures(jobs, made.denoised)
        values = {row: job.judge(signatures[row]) for row, job in enumerate(jobs) if job.gated_now}
        stepped, corrected, updates = step_rows(jobs, made.latents, made.denoised)
        finite = torch.isfinite(stepped).flatten(1).all(1).tolist()
        advanced = []
        for row, job in enumerate(jobs):
            if row in values and self._redirect(job, values[row], signatures[row]):
                continue
            if not finite[row]:
                self._rerun(job)
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
            self._events.append(job.progress())
            return True
        if job.stays(value):
            job.keep_judged(pooled)
            return False
        self._refuse(job)
        return True

    def _refuse(self, job: Job) -> None:
        job.discard()
        job.next_attempt(self._pipeline)
        self._events.append(job.progress())

    def _rerun(self, job: Job) -> None:
        """Give a job whose latent is not finite one more chance, in full."""
        if job.retried:
            self._drop(job, "not-finite")
            return
        logger.warning("job %s: latent not finite at step %d; once more in full", job.spec.job_id, job.index)
        job.discard()
        job.retried = True
        job.enter_full(self._pipeline)
        self._events.append(job.progress())

    def _report(self, jobs: list[Job]) -> None:
        shown = [job for job in jobs if job.wants_preview()]
        previews = dict(self._pictures(shown, preview=True))
        self._events.extend(job.progress(previews.get(job.spec.job_id)) for job in jobs)

    def _retire(self) -> None:
        finished = [job for job in self._active if job.done]
        self._active = [job for job in self._active if not job.done]
        pictures = dict(self._pictures(finished, preview=False))
        for job in finished:
            if job.spec.job_id in pictures:
                self._events.append(job.result(pictures[job.spec.job_id]))

    def _pictures(self, jobs: list[Job], *, preview: bool) -> Iterator[tuple[str, ImageArray]]:
        """Decode together what is ready together; a job that cannot be decoded fails, a preview is just left out."""
        for group in _by_shape(jobs):
            for outcome in self._decoder.evaluate(group, partial(self._decode, preview=preview)):
                if isinstance(outcome, Broken):
                    if not preview:
                        self._drop(outcome.job, outcome.code)
                    continue
                yield from zip((job.spec.job_id for job in outcome.jobs), outcome.value, strict=True)

    def _decode(self, jobs: list[Job], *, preview: bool) -> ImageArray:
        latents = torch.stack([job.denoised if preview and job.denoised is not None else job.latent for job in jobs])
        with _Stopwatch(latents) as watch:
            images = self._pipeline.decode(latents)
        for job in jobs:
            job.decode_seconds += watch.seconds / len(jobs)
        return images

    def _drop(self, job: Job, code: str) -> None:
        self._active = [other for other in self._active if other is not job]
        self._fail(job.spec.job_id, code)

    def _fail(self, job_id: str, code: str) -> None:
        self._events.append(JobFailed(job_id, code, MESSAGES[code]))


def _signatures(jobs: list[Job], denoised: Tensor) -> dict[int, NDArray[np.float16]]:
    """Pool the predictions of the rows that are judged or kept at this step, in one go."""
    rows = [row for row, job in enumerate(jobs) if job.gated_now or job.captures_now]
    if not rows:
        return {}
    return dict(zip(rows, pool_prediction(denoised[rows]), strict=True))


def _by_shape(jobs: list[Job]) -> list[list[Job]]:
    groups: dict[torch.Size, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.latent.shape, []).append(job)
    return list(groups.values())


class _Stopwatch:
    """Wall-clock seconds of device work; waits for the device only where there is one."""

    def __init__(self, on: Tensor) -> None:
        self._device = on.device
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._wait()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
