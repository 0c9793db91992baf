"""Runs the same pictures through every system, turn by turn, on one engine loop, and keeps times and scores."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.facts import Floats
from benchmarks.features.pictures import psnr, ssim
from benchmarks.features.systems import System
from policies.features.artefact import CalibrationShelf
from service.engine.base import JobFailed, JobResult, JobSpec, ResumePoint
from service.engine.features.caches import FeatureCaches
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from training.judge import Judge
from training.scenes import Caption

BATCH = 8
Points = Callable[[System], list[ResumePoint]]


@dataclass
class Tally:
    """One system's figures, per picture unless it says otherwise.

    Attributes:
        seconds: wall clock of each batch, decoding included.
        denoising: of these, seconds in the network.
        score: judge.
        psnr: dB against the picture without feature caching.
        ssim: likewise.
        share: multiply-adds executed of those of its own steps in full.
        evaluations: network evaluations.
        reason: why nothing was cached.
    """

    seconds: list[float] = field(default_factory=list)
    denoising: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    reason: str | None = None

    @property
    def scores(self) -> Floats:
        """Judge scores."""
        return np.asarray(self.score, dtype=float)


class FeatureLab:
    """A model, its calibrations and the judge.

    Args:
        model: folder of the model.
        quiet: no progress bars.
    """

    def __init__(self, model: Path, *, quiet: bool) -> None:
        self.pipeline = load_pipeline(str(model), "cpu", "float32")
        self.info = self.pipeline.info
        self._caches = FeatureCaches(self.pipeline, CalibrationShelf(model / "features"))
        self._judge = Judge.load()
        self._quiet = quiet
        self._numbers = count()

    def spec(self, caption: Caption, seed: int, system: System) -> JobSpec:
        """Return the job of one picture."""
        return JobSpec(
            job_id=str(next(self._numbers)),
            prompt=caption.text,
            negative_prompt="",
            seed=seed,
            steps=system.steps,
            guidance_scale=self.info.default_guidance,
            solver=system.solver,
            width=self.info.width,
            height=self.info.height,
            features=system.features,
        )

    def run(self, specs: Sequence[JobSpec], batch: int = BATCH) -> tuple[float, list[JobResult]]:
        """Run jobs in joint batches; return wall-clock seconds and the results in order.

        Raises:
            RuntimeError: a job failed.
        """
        loop = StepLoop(self.pipeline, max_batch=batch, caches=self._caches)
        ends: dict[str, JobResult] = {}
        started = time.perf_counter()
        for spec in specs:
            loop.submit(spec, started)
        while not loop.idle:
            for event in loop.tick():
                if isinstance(event, JobFailed):
                    raise RuntimeError(f"a job failed: {event.code}")
                if isinstance(event, JobResult):
                    ends[event.job_id] = event
        return time.perf_counter() - started, [ends[spec.job_id] for spec in specs]

    def score(self, results: Sequence[JobResult], captions: Sequence[Caption]) -> Floats:
        """Return the judge's score of each picture."""
        batch = torch.from_numpy(np.stack([result.image for result in results])).permute(0, 3, 1, 2).float() / 255
        return self._judge.score(batch, list(captions)).score

    def compare(
        self,
        systems: Sequence[System],
        captions: Sequence[Caption],
        seeds: Sequence[int],
        label: str,
        points: Sequence[Points] | None = None,
        batch: int = BATCH,
    ) -> dict[System, Tally]:
        """Run every picture through every system; each batch of pictures meets them in another order.

        Args:
            systems: what to compare; the plain form of each is run, too.
            captions: what to draw.
            seeds: one per picture.
            label: of the progress bar.
            points: per picture, where a system with an entry enters; None = nowhere.
            batch: most pictures that advance together.
        """
        every = list(dict.fromkeys([*(system.plain for system in systems), *systems]))
        tallies = {system: Tally() for system in every}
        starts = range(0, len(captions), BATCH)
        with tqdm(total=len(starts) * len(every), desc=label, disable=self._quiet, leave=False) as bar:
            for turn, start in enumerate(starts):
                rows = slice(start, start + BATCH)
                entries = [None] * BATCH if points is None else points[rows]
                self._warm(captions[rows], seeds[rows])
                drawn = {}
                for system in _rotated(every, turn * 7):
                    drawn[system] = self._turn(system, captions[rows], seeds[rows], entries, tallies[system], batch)
                    bar.update()
                for system, results in drawn.items():
                    _compare_pictures(tallies[system], results, drawn[system.plain])
        return tallies

    def _warm(self, captions: Sequence[Caption], seeds: Sequence[int]) -> None:
        """Have every prompt encoded, so that no system pays for it."""
        system = System(steps=1)
        self.run([self.spec(caption, seed, system) for caption, seed in zip(captions, seeds, strict=True)])

    def _turn(
        self,
        system: System,
        captions: Sequence[Caption],
        seeds: Sequence[int],
        entries: Sequence[Points | None],
        tally: Tally,
        batch: int,
    ) -> list[JobResult]:
        specs = [self.spec(caption, seed, system) for caption, seed in zip(captions, seeds, strict=True)]
        if system.entry:
            enter = [points for points in entries if points is not None]
            specs = [replace(spec, resume=tuple(at(system))) for spec, at in zip(specs, enter, strict=True)]
        seconds, results = self.run(specs, batch)
        tally.seconds.append(seconds)
        tally.denoising.append(sum(result.denoise_seconds for result in results))
        tally.score += self.score(results, captions).tolist()
        tally.evaluations += [result.evaluations for result in results]
        reports = [result.features for result in results]
        tally.share += [1.0 if report is None else report.compute_share for report in reports]
        tally.reason = next((report.reason for report in reports if report is not None and report.reason), None)
        return results


def _compare_pictures(tally: Tally, results: Sequence[JobResult], references: Sequence[JobResult]) -> None:
    for result, reference in zip(results, references, strict=True):
        tally.psnr.append(psnr(result.image, reference.image))
        tally.ssim.append(ssim(result.image, reference.image))


def _rotated(systems: Sequence[System], by: int) -> list[System]:
    by %= len(systems)
    return [*systems[by:], *systems[:by]]
