"""Every family's tiny model, random jobs on it, and the exact latents that runs end at."""

from dataclasses import dataclass, replace

import numpy as np
from engine_helpers import SIDE, finish, point, spec
from hypothesis import strategies as st
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3
from tiny_sdxl import build_tiny_sdxl

from benchmarks.tiny_model import build_tiny_model
from service.engine.base import CapturedState, JobEvent, JobResult, JobSpec
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop

BUILDERS = {
    "stable-diffusion": build_tiny_model,
    "stable-diffusion-xl": build_tiny_sdxl,
    "pixart-sigma": build_tiny_pixart,
    "stable-diffusion-3": build_tiny_sd3,
    "flux": build_tiny_flux,
}
SHARES = (0.25, 0.5)


class Bare:
    """A pipeline whose pictures are the clean latents themselves, unrounded: what a run ends at, without the VAE."""

    def __init__(self, pipeline):
        self._pipeline = pipeline

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def decode(self, latents):
        return latents.permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class Arrival:
    """A job, the tick it is submitted at, and the one it is cancelled at, if any."""

    item: JobSpec
    tick: int
    cancelled: int | None


@dataclass
class Played:
    """What a loop told of a schedule of arrivals: events by tick, and how many rows its forwards had."""

    events: list[tuple[int, JobEvent]]
    rows: int

    @property
    def results(self) -> dict[str, JobResult]:
        return {event.job_id: event for _, event in self.events if isinstance(event, JobResult)}


def tiny_family(name, folder):
    return Bare(load_pipeline(str(BUILDERS[name](folder)), "cpu", "float32"))


def some_jobs(solvers: tuple[str, ...]) -> st.SearchStrategy:
    """Fields of a job; sizes differ, so that a batch may fall into several forwards."""
    return st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["a red cube", "two blue balls", "x"]),
            "negative_prompt": st.sampled_from(["", "green"]),
            "seed": st.integers(0, 3),
            "steps": st.sampled_from([2, 3, 5, 8]),
            "guidance_scale": st.sampled_from([1.0, 2.0, 4.0]),
            "solver": st.sampled_from(solvers),
            "width": st.sampled_from([SIDE, SIDE, SIDE + 16]),
            "capture": st.sampled_from([(), SHARES, (0.5,)]),
        }
    )


def entries(states: tuple[CapturedState, ...]) -> st.SearchStrategy:
    """Ways to enter: from noise, past the gate, refused by it once or twice, and sent deeper."""
    early, late = states
    return st.sampled_from(
        [
            (),
            (point(early),),
            (point(late, prediction=None),),
            (point(late, -1.0),),
            (point(late, -1.0), point(early)),
            (point(early, -1.0), point(late, -1.0)),
            (point(early, deeper=(point(late),)),),
        ]
    )


def arrivals(solvers, states) -> st.SearchStrategy:
    """Two to five jobs with times of arrival and cancellation."""
    one = st.tuples(some_jobs(solvers), entries(states), st.integers(0, 6), st.none() | st.integers(0, 9))
    return st.lists(one, min_size=2, max_size=5).map(
        lambda drawn: [
            Arrival(spec(str(i), **fields, resume=resume), tick, None if cut is None else tick + cut)
            for i, (fields, resume, tick, cut) in enumerate(drawn)
        ]
    )


def play(loop: StepLoop, plan: list[Arrival]) -> Played:
    """Submit and cancel at the given ticks, then run to the end."""
    events: list[tuple[int, JobEvent]] = []
    last = max(max(one.tick, one.cancelled or 0) for one in plan)
    now = 0
    while now <= last or not loop.idle:
        for one in plan:
            if one.tick == now:
                loop.submit(one.item, 0.0)
            if one.cancelled == now:
                loop.cancel(one.item.job_id)
        events += [(now, event) for event in loop.tick()]
        now += 1
    return Played(events, sum(size * times for size, times in loop.stats.batch_sizes.items()))


def clean(pipeline: Bare, item: JobSpec) -> JobResult:
    """A job run alone."""
    loop = StepLoop(pipeline)
    loop.submit(item, 0.0)
    return finish(loop)[item.job_id]


def own_states(pipeline: Bare, item: JobSpec) -> tuple[CapturedState, ...]:
    return clean(pipeline, replace(item, capture=SHARES)).captured


def assert_close(image: np.ndarray, other: np.ndarray, *, rounded: bool) -> None:
    """Within float32's rounding, as a share of the largest value: random weights make large latents.

    Args:
        image: what the joint batch made.
        other: what the job alone makes.
        rounded: the run rounds to half precision on its way, where the last digit of float32 may decide which way.
    """
    tolerance = 2e-3 if rounded else 1e-5
    np.testing.assert_allclose(image, other, rtol=0, atol=tolerance * max(1.0, float(np.abs(other).max())))
