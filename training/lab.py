"""The service's own engine with a progress bar, and the scenes' judge beside it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from service.calibrate.jobs import JobRunner, RunSettings, nearest_state, resume_point, resumed, text_jobs
from service.engine import EngineConfig
from service.engine.base import JobResult, JobSpec, ModelInfo
from service.engine.quantise import Quantise
from training.judge import Judge, JudgeResult
from training.scenes import Caption


def fastest_dtype() -> str:
    """Return bfloat16 where the CPU has it, which halves the time, and float32 where it would be emulated.

    The judge cannot tell the difference (`python -m benchmarks resume` reports both).
    """
    return "bfloat16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "float32"


class Lab(JobRunner):
    """An in-process engine with a progress bar, and the judge beside it.

    Args:
        model: folder of the model.
        dtype: what the networks compute in; None = the faster one here, see `fastest_dtype`.
        max_batch: rows per joint batch.
        quantise: see `EngineConfig`.
        quiet: no progress bars.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str | None = None,
        max_batch: int = 32,
        threads: int = 0,
        quantise: Quantise = "none",
        quiet: bool = False,
    ) -> None:
        """Start the engine and load the judge."""
        super().__init__(
            EngineConfig(
                model=model,
                kind="local",
                dtype=dtype or fastest_dtype(),
                max_batch=max_batch,
                threads=threads,
                quantise=quantise,
            )
        )
        self._judge = Judge.load()
        self._quiet = quiet

    def run(self, specs: Sequence[JobSpec], label: str) -> list[JobResult]:
        """Run all jobs; results in the order of `specs`.

        Raises:
            RuntimeError: a job failed.
        """
        with tqdm(total=len(specs), desc=label, disable=self._quiet, leave=False) as bar:
            return self.run_all(specs, bar.update)

    def judge(self, results: Iterable[JobResult], captions: Sequence[Caption]) -> JudgeResult:
        """Score finished jobs against the captions they were asked for."""
        return self.judge_images([result.image for result in results], captions)

    def judge_images(self, images: Sequence[NDArray[np.uint8]], captions: Sequence[Caption]) -> JudgeResult:
        """Score uint8 [H, W, 3] pictures against captions."""
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return self._judge.score(batch, list(captions))


def jobs(
    captions: Sequence[Caption], seeds: Sequence[int], run: RunSettings, info: ModelInfo, tag: str
) -> list[JobSpec]:
    """One full-generation job per caption."""
    return text_jobs([caption.text for caption in captions], seeds, run, info, tag)


__all__ = ["Lab", "RunSettings", "jobs", "nearest_state", "resume_point", "resumed"]
