"""Run many jobs through the service's own engine, so that measured pictures are served pictures."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from service.engine import EngineConfig, make_engine
from service.engine.base import CapturedState, JobFailed, JobResult, JobSpec, ModelInfo, ResumePoint
from service.engine.quantise import Quantise
from training.judge import Judge, JudgeResult
from training.scenes import Caption


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a group of jobs runs: N, solver, guidance and where to capture."""

    steps: int
    solver: str
    guidance_scale: float
    capture: tuple[float, ...] = ()


class Lab:
    """An in-process engine with a progress bar, and the judge beside it.

    Args:
        model: folder of the model.
        dtype: what the networks compute in. bfloat16 halves the time on CPUs that have it; the judge cannot tell the
            difference (`python -m benchmarks resume` reports both).
        max_batch: rows per joint batch.
        quantise: see `EngineConfig`.
        quiet: no progress bars.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        max_batch: int = 32,
        threads: int = 0,
        quantise: Quantise = "none",
        quiet: bool = False,
    ) -> None:
        """Start the engine and load the judge."""
        config = EngineConfig(
            model=model, kind="local", dtype=dtype, max_batch=max_batch, threads=threads, quantise=quantise
        )
        self._loop = asyncio.new_event_loop()
        self._engine = make_engine(config)
        self._loop.run_until_complete(self._engine.start())
        self._judge = Judge.load()
        self._window = 2 * max_batch
        self._quiet = quiet

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

    def run(self, specs: Sequence[JobSpec], label: str) -> list[JobResult]:
        """Run all jobs, at most two batches in flight; results in the order of `specs`.

        Raises:
            RuntimeError: a job failed (a measurement with holes is no measurement).
        """
        return self._loop.run_until_complete(self._run_all(specs, label))

    def judge(self, results: Iterable[JobResult], captions: Sequence[Caption]) -> JudgeResult:
        """Score finished jobs against the captions they were asked for."""
        return self.judge_images([result.image for result in results], captions)

    def judge_images(self, images: Sequence[NDArray[np.uint8]], captions: Sequence[Caption]) -> JudgeResult:
        """Score uint8 [H, W, 3] pictures against captions."""
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return self._judge.score(batch, list(captions))

    async def _run_all(self, specs: Sequence[JobSpec], label: str) -> list[JobResult]:
        gate = asyncio.Semaphore(self._window)
        with tqdm(total=len(specs), desc=label, disable=self._quiet, leave=False) as bar:

            async def one(spec: JobSpec) -> JobResult:
                async with gate:
                    result = await self._run_one(spec)
                    bar.update()
                    return result

            return list(await asyncio.gather(*(one(spec) for spec in specs)))

    async def _run_one(self, spec: JobSpec) -> JobResult:
        async for event in self._engine.run(spec):
            if isinstance(event, JobResult):
                return event
            if isinstance(event, JobFailed):
                raise RuntimeError(f"job {event.job_id} failed: {event.code}: {event.message}")
        raise RuntimeError(f"job {spec.job_id} ended without a result")


def jobs(
    captions: Sequence[Caption], seeds: Sequence[int], run: RunSettings, info: ModelInfo, tag: str
) -> list[JobSpec]:
    """One full-generation job per caption."""
    return [
        JobSpec(
            job_id=f"{tag}-{index}",
            prompt=caption.text,
            negative_prompt="",
            seed=seed,
            steps=run.steps,
            guidance_scale=run.guidance_scale,
            solver=run.solver,
            width=info.width,
            height=info.height,
            capture=run.capture,
        )
        for index, (caption, seed) in enumerate(zip(captions, seeds, strict=True))
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
