"""The schedule of rectified flow, and our solvers on it, against diffusers' schedulers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from service.engine.levels import Level
from service.engine.schedule import FLOW_SOLVERS, FlowSchedule
from service.engine.solvers import SOLVERS, Memory, plan_step, step

DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
# name -> the scheduler's configuration, whether the pipeline hands it linear shares
SCHEDULES = {
    "SD3": ({"shift": 3.0}, False),
    "SD3, dynamic": (DYNAMIC, False),
    "FLUX dev": (DYNAMIC, True),
    "FLUX schnell": ({"shift": 1.0}, True),
    "linear time shift": (DYNAMIC | {"time_shift_type": "linear"}, True),
    "Karras": ({"shift": 3.0, "use_karras_sigmas": True}, False),
    "terminal": (DYNAMIC | {"shift_terminal": 0.1}, True),
}
CLASSES = {"dpmpp_2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}


def schedule_of(name):
    config, linear = SCHEDULES[name]
    return FlowSchedule(config, linear=linear)


def shares_of(grid):
    return [level.sigma / (level.alpha + level.sigma) for level in grid.levels]


def diffusers_own(name, steps, tokens):
    """The scheduler as diffusers' pipelines of SD3 and FLUX set it."""
    config, linear = SCHEDULES[name]
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    linear_shares = np.linspace(1.0, 1 / steps, steps) if linear else None
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15) if config.get("use_dynamic_shifting") else None
    retrieve_timesteps(scheduler, steps, sigmas=linear_shares, mu=mu)
    return scheduler


def velocity(latents, share):
    """Some smooth function of rectified flow's x and share of noise."""
    return torch.tanh(0.7 * latents + 0.3 * torch.roll(latents, 1, -1) + math.sin(3 * share))


def noise():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def ours(grid, name):
    """Our solver in double precision, so that what differs is diffusers' rounding."""
    solver, memory, latents = SOLVERS[name], Memory(), noise() * grid.start
    for i, (now, after) in enumerate(pairwise(grid.levels)):
        scale = now.alpha + now.sigma
        share, flow = now.sigma / scale, latents / scale
        denoised = flow - share * velocity(flow, share)
        update = plan_step(solver, memory, now, after, len(grid.times) - i)
        latents, corrected = step(latents, denoised, [memory], [update], [None])
        memory.past = [denoised[0], *memory.past][: solver.depth]
        memory.levels = [now, *memory.levels][: solver.depth]
        memory.anchor, memory.order = corrected[0], update.order
    return latents


def theirs(scheduler, dtype=torch.float64):
    latents = noise().to(dtype)
    scheduler.set_begin_index(0)
    for time, share in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        latents = scheduler.step(velocity(latents, float(share)), time, latents).prev_sample
    return latents


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 4, 28, 50, 137])
@pytest.mark.parametrize("tokens", [64, 256, 1536, 4096])
def test_grids_equal_diffusers(name, steps, tokens):
    scheduler = diffusers_own(name, steps, tokens)
    grid = schedule_of(name).grid("flow_match_euler", steps, tokens)
    assert grid.times == tuple(scheduler.timesteps.tolist())
    assert shares_of(grid) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-12)
    assert grid.levels[-1] == Level(1.0, 0.0)
    assert all(later.ratio < earlier.ratio for earlier, later in pairwise(grid.levels))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 5, 28, 50])
def test_euler_equals_diffusers(name, steps):
    grid = schedule_of(name).grid("flow_match_euler", steps, 1024)
    expected = theirs(diffusers_own(name, steps, 1024))
    torch.testing.assert_close(ours(grid, "flow_match_euler"), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 3, 4, 8, 14, 20, 28, 50])
@pytest.mark.parametrize("solver", CLASSES)
def test_multistep_solvers_equal_diffusers_on_the_same_shares(solver, name, steps):
    grid = schedule_of(name).grid(solver, steps, 1024)
    assert grid.times == schedule_of(name).grid("flow_match_euler", steps, 1024).times
    scheduler = CLASSES[solver](use_flow_sigmas=True, prediction_type="flow_prediction")
    if solver == "unipc":
        # Itself it moves the first share, 1, a little.
        scheduler.set_timesteps(sigmas=np.array(diffusers_own(name, steps, 1024).sigmas[:-1], np.float64))
        assert scheduler.sigmas.tolist() == pytest.approx(shares_of(grid), abs=1e-7)
    else:
        # It takes no shares from its caller, but walks through those it has.
        scheduler.set_timesteps(steps)
        scheduler.sigmas = torch.tensor(shares_of(grid))
    torch.testing.assert_close(ours(grid, solver), theirs(scheduler), atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_one_step_goes_straight_to_the_prediction(solver):
    grid = schedule_of("FLUX schnell").grid(solver, 1, 1024)
    assert len(grid.times) == 1
    expected = noise() - velocity(noise(), 1.0)
    torch.testing.assert_close(ours(grid, solver), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("flow_match_euler", 1), ("dpmpp_2m", 2), ("unipc", 2)])
def test_solvers_converge_at_their_order(solver, order):
    """The first level of pure noise, whose logarithm is cut off, does not spoil it."""
    schedule = schedule_of("SD3")
    truth = ours(schedule.grid("unipc", 4000, 1024), "unipc")
    coarse, fine = ((ours(schedule.grid(solver, steps, 1024), solver) - truth).abs().max() for steps in (100, 200))
    assert math.log2(coarse / fine) > order - 0.2


def test_only_dynamic_shifting_looks_at_the_size():
    fixed, dynamic = schedule_of("SD3"), schedule_of("SD3, dynamic")
    assert fixed.grid("unipc", 8, 64) == fixed.grid("unipc", 8, 4096)
    small, large = dynamic.grid("unipc", 8, 64), dynamic.grid("unipc", 8, 4096)
    assert all(few < many for few, many in zip(small.times[1:], large.times[1:], strict=True))


def test_a_level_is_found_by_its_time():
    schedule = schedule_of("FLUX dev")
    grid = schedule.grid("flow_match_euler", 10, 1024)
    for time, level in zip(grid.times, grid.levels, strict=False):
        assert schedule.level(time).ratio == pytest.approx(level.ratio, rel=1e-5, abs=1e-12)
    assert schedule.level(250.0) == Level.of_flow(0.25)
    assert schedule.level(1000.5) == schedule.level(1000.0) == Level(0.0, 1.0)
    assert schedule.level(-1.0) == Level(1.0, 0.0)


def test_names_tell_schedules_apart():
    names = {name: schedule_of(name).name for name in SCHEDULES}
    assert len(set(names.values())) == len(SCHEDULES)
    assert all(name.startswith("flow-") for name in names.values())
    assert schedule_of("SD3").name == names["SD3"]
    assert schedule_of("SD3").prediction_type == "flow"
