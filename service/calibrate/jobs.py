"""Run many jobs through the service's own engine, so that measured pictures are served pictures."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from service.engine import EngineConfig, make_engine
from service.engine.base import CapturedState, JobFailed, JobResult, JobSpec, ModelInfo, ResumePoint

Result = TypeVar("Result")

Advanced = Callable[[int], None]
"""Told how many jobs more are done."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a group of jobs runs: N, solver, guidance and where to capture."""

    steps: int
    solver: str
    guidance_scale: float
    capture: tuple[float, ...] = ()


class JobRunner:
    """An in-process engine that is given jobs by the hundred."""

    def __init__(self, config: EngineConfig) -> None:
        """Start the engine. Raises EngineStartError."""
        self._loop = asyncio.new_event_loop()
        self._engine = make_engine(config)
        try:
            self._loop.run_until_complete(self._engine.start())
        except BaseException:
            self._loop.close()
            raise
        self._window = 2 * config.max_batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self._engine.close())
        self._loop.close()

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""
        return self._engine.info

    def run_all(self, specs: Sequence[JobSpec], advanced: Advanced = lambda _: None) -> list[JobResult]:
        """Run all jobs, at most two batches in flight; results in the order of `specs`.

        Raises:
            RuntimeError: a job failed (a measurement with holes is no measurement).
        """
        return self._finished(self._run_all(specs, advanced, self._run_one))

    def run_judged(self, specs: Sequence[JobSpec], advanced: Advanced = lambda _: None) -> list[JobResult | None]:
        """Run jobs that resume; None for those that the divergence gate refuses, which are not run in full.

        Raises:
            RuntimeError: a job failed.
        """
        return self._finished(self._run_all(specs, advanced, self._run_unless_refused))

    def _finished(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run until the work is done; interrupted, leave no job behind that nobody waits for."""
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            task.cancel()
            self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise

    async def _run_all(
        self, specs: Sequence[JobSpec], advanced: Advanced, run: Callable[[JobSpec], Awaitable[Result]]
    ) -> list[Result]:
        gate = asyncio.Semaphore(self._window)

        async def one(spec: JobSpec) -> Result:
            async with gate:
                result = await run(spec)
                advanced(1)
                return result

        return list(await asyncio.gather(*(one(spec) for spec in specs)))

    async def _run_unless_refused(self, spec: JobSpec) -> JobResult | None:
        async with aclosing(self._engine.run(spec)) as events:
            entered = False
            async for event in events:
                if isinstance(event, JobResult):
                    return event if event.resumed is not None else None
                if isinstance(event, JobFailed):
                    raise RuntimeError(f"job {event.job_id} failed: {event.code}: {event.message}")
                # Entered anew at the seed's own noise: what it entered at first was refused.
                if entered and event.first_step == 0:
                    return None
                entered = True
        raise RuntimeError(f"job {spec.job_id} ended without a result")

    async def _run_one(self, spec: JobSpec) -> JobResult:
        async for event in self._engine.run(spec):
            if isinstance(event, JobResult):
                return event
            if isinstance(event, JobFailed):
                raise RuntimeError(f"job {event.job_id} failed: {event.code}: {event.message}")
        raise RuntimeError(f"job {spec.job_id} ended without a result")


def text_jobs(
    prompts: Sequence[str], seeds: Sequence[int], run: RunSettings, info: ModelInfo, tag: str
) -> list[JobSpec]:
    """One full-generation job per prompt."""
    return [
        JobSpec(
            job_id=f"{tag}-{index}",
            prompt=prompt,
            negative_prompt="",
            seed=seed,
            steps=run.steps,
            guidance_scale=run.guidance_scale,
            solver=run.solver,
            width=info.width,
            height=info.height,
            capture=run.capture,
        )
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


def resumed(spec: JobSpec, points: Sequence[ResumePoint], tag: str) -> JobSpec:
    """The same job, entering at the given states."""
    return replace(spec, job_id=f"{tag}-{spec.job_id}", resume=tuple(points), capture=())


def resume_point(state: CapturedState, max_divergence: float = float("inf")) -> ResumePoint:
    """A captured state as an entry point; by default the gate only measures."""
    return ResumePoint(
        latent=state.latent,
        timestep=state.timestep,
        log_snr=state.log_snr,
        skip=state.skip,
        prediction=state.prediction,
        max_divergence=max_divergence,
        depth=state.depth,
    )


def nearest_state(states: Sequence[CapturedState], skip: float) -> CapturedState:
    """The captured state whose skipped share is closest to `skip`."""
    return min(states, key=lambda state: abs(state.skip - skip))
