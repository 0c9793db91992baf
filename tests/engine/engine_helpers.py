"""Short ways to run jobs on a tiny model."""

from contextlib import aclosing

from benchmarks.tiny_model import SIDE
from service.engine.base import CapturedState, JobFailed, JobResult, JobSpec, ResumePoint
from service.engine.loop import StepLoop


def spec(job_id: str = "a", **changes: object) -> JobSpec:
    fields = {
        "job_id": job_id,
        "prompt": "a red cube",
        "negative_prompt": "",
        "seed": 7,
        "steps": 8,
        "guidance_scale": 3.0,
        "solver": "ddim",
        "width": SIDE,
        "height": SIDE,
    }
    return JobSpec(**{**fields, **changes})


def point(state: CapturedState, max_divergence: float = 1e9, **changes: object) -> ResumePoint:
    fields = {
        "latent": state.latent,
        "timestep": state.timestep,
        "log_snr": state.log_snr,
        "skip": state.skip,
        "prediction": state.prediction,
        "max_divergence": max_divergence,
        "depth": state.depth,
    }
    return ResumePoint(**{**fields, **changes})


def drive(loop: StepLoop, *specs: JobSpec) -> dict[str, JobResult | JobFailed]:
    """Run jobs to their end, all submitted at once."""
    for item in specs:
        loop.submit(item, 0.0)
    return finish(loop)


def finish(loop: StepLoop) -> dict[str, JobResult | JobFailed]:
    ends: dict[str, JobResult | JobFailed] = {}
    while not loop.idle:
        ends.update({e.job_id: e for e in loop.tick() if isinstance(e, JobResult | JobFailed)})
    return ends


def alone(pipeline: object, item: JobSpec) -> JobResult:
    result = drive(StepLoop(pipeline), item)[item.job_id]
    assert isinstance(result, JobResult)
    return result


async def collect(engine: object, item: JobSpec) -> list[object]:
    async with aclosing(engine.run(item)) as events:
        return [event async for event in events]
