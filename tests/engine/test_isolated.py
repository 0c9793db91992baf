"""An isolated job gives the very bits it gives alone, whoever is in the loop with it."""

import numpy as np
import pytest
from engine_helpers import alone, drive, point, spec

from policies.features.choice import FeatureChoice
from service.engine.base import JobResult
from service.engine.loop import StepLoop

CAPTURE = (0.25, 0.5)
WISHES = {
    "plain": {},
    "unguided": {"guidance_scale": 1.0},
    "few-steps": {"steps": 3, "solver": "dpmpp_2m"},
    "random": {"solver": "euler_ancestral"},
    "two-stages": {"solver": "heun"},
    "corrected": {"solver": "unipc", "steps": 12},
    "reusing": {"features": FeatureChoice("deepcache", 0.8)},
    "lean": {"features": FeatureChoice("cfg-cache", 0.5), "steps": 12},
}


def _isolated(name, **changes):
    return spec(name, seed=list(WISHES).index(name), isolated=True, capture=CAPTURE, **{**WISHES[name], **changes})


def _same(one: JobResult, other: JobResult) -> bool:
    latents = [(a.latent, b.latent) for a, b in zip(one.captured, other.captured, strict=True)]
    pairs = [(one.image, other.image), (one.final.latent, other.final.latent), *latents]
    return all(np.array_equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("joint", [0, 3])
def test_isolated_jobs_equal_themselves_alone(pipeline, joint: int) -> None:
    jobs = [_isolated(name) for name in WISHES]
    others = [spec(f"joint-{number}", seed=number) for number in range(joint)]
    ends = drive(StepLoop(pipeline, max_batch=16), *jobs, *others)
    assert all(isinstance(end, JobResult) for end in ends.values())
    for job in jobs:
        assert _same(ends[job.job_id], alone(pipeline, job)), job.job_id


def test_a_resumed_job_equals_itself_alone_and_a_neighbour_that_leaves_changes_nothing(pipeline) -> None:
    source = alone(pipeline, spec("source", isolated=True, capture=CAPTURE))
    shallow, deep = (point(state, prediction=None) for state in source.captured)
    resumed = [
        spec("shallow", prompt="a blue cube", resume=(shallow,), isolated=True, capture=CAPTURE),
        spec("deep", prompt="a blue cube", resume=(deep,), isolated=True, capture=CAPTURE),
    ]
    loop = StepLoop(pipeline, max_batch=8)
    for job in [*resumed, spec("leaves", isolated=True)]:
        loop.submit(job, 0.0)
    events = loop.tick()
    loop.cancel("leaves")
    while not loop.idle:
        events += loop.tick()
    ends = {event.job_id: event for event in events if isinstance(event, JobResult)}
    assert ends.keys() == {"shallow", "deep"}
    for job in resumed:
        assert ends[job.job_id].resumed == 0
        assert _same(ends[job.job_id], alone(pipeline, job))


def test_a_run_sent_deeper_equals_one_that_enters_there_at_once(pipeline) -> None:
    source = alone(pipeline, spec("source", isolated=True, capture=CAPTURE))
    shallow, deep = (point(state) for state in source.captured)
    judged = spec("judged", prompt="a blue cube", isolated=True, capture=CAPTURE, resume=(_with(shallow, deep),))
    again = spec("again", prompt="a blue cube", isolated=True, capture=CAPTURE, resume=(_ungated(deep),))
    first, second = alone(pipeline, judged), alone(pipeline, again)
    assert (first.deeper, first.skipped, first.wasted) == (0, second.skipped, 1)
    assert np.array_equal(first.image, second.image)


def _with(judge, deeper):
    return type(judge)(judge.latent, judge.timestep, judge.log_snr, judge.skip, judge.prediction, 1e9, 0, (deeper,))


def _ungated(at):
    return type(at)(at.latent, at.timestep, at.log_snr, at.skip, None, 1e9, at.depth)
