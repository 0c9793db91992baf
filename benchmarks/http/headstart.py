"""The whole service around an engine that costs nothing: `python -m benchmarks.http.headstart PORT`."""

import sys
from collections.abc import AsyncGenerator

import numpy as np

from benchmarks.http.picture import SIDE
from service.engine.base import EngineStats, JobEvent, JobResult, JobSpec, ModelInfo
from service.engine.config import EngineConfig
from service.server import run_server
from service.settings import load_settings

INFO = ModelInfo(
    model_id="nothing",
    weights_digest="nothing",
    family="stable-diffusion",
    prediction_type="epsilon",
    schedule="nothing",
    width=SIDE,
    height=SIDE,
    size_multiple=8,
    max_size=SIDE,
    default_steps=20,
    default_guidance=4.0,
    solvers=("ddim",),
    latent_channels=4,
)


class FreeEngine:
    """Returns the same black picture for every job, at once."""

    def __init__(self, config: EngineConfig) -> None:
        self._image = np.zeros((SIDE, SIDE, 3), np.uint8)

    @property
    def info(self) -> ModelInfo:
        """No model."""
        return INFO

    @property
    def stats(self) -> EngineStats:
        """Always ready."""
        return EngineStats(ready=True)

    async def start(self) -> None:
        """Load nothing."""

    async def run(self, spec: JobSpec) -> AsyncGenerator[JobEvent, None]:
        """Yield the result."""
        yield JobResult(
            job_id=spec.job_id,
            image=self._image,
            resumed=None,
            steps=spec.steps,
            skipped=0,
            wasted=0,
            divergences=(),
            captured=(),
            queue_seconds=0.0,
            denoise_seconds=0.0,
            step_seconds=0.0,
            decode_seconds=0.0,
        )

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        """Hold nothing."""


if __name__ == "__main__":
    run_server(load_settings(port=int(sys.argv[1]), matching="off", judge="", model="nothing/nothing"), FreeEngine)
