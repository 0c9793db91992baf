"""Our solvers against diffusers' schedulers, driven by the same made-up network."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from service.engine.levels import Level
from service.engine.schedule import DISCRETE_SOLVERS, NoiseSchedule
from service.engine.solvers import SOLVERS, Memory, Update, plan_step, step

SCHEDULES = {
    "cosine, trailing": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    "Stable Diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "set_alpha_to_one": False,
        "timestep_spacing": "leading",
    },
    "linspace, Karras": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "timestep_spacing": "linspace",
        "use_karras_sigmas": True,
    },
    "zero terminal SNR": {
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    },
}
PROPER = [name for name in SCHEDULES if name != "zero terminal SNR"]
CLASSES = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def network(latents, time):
    """Some smooth function of a variance-preserving latent and time: a v-prediction."""
    return torch.tanh(0.7 * latents + 0.3 * torch.roll(latents, 1, -1) + math.sin(time / 200.0))


def noise(index=0):
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3 + index), dtype=torch.float64)


def ours(schedule, solver, steps):
    """Our solver in double precision, so that what differs is diffusers' rounding."""
    grid, solver, memory = schedule.grid(solver, steps), SOLVERS[solver], Memory()
    latents = noise() * grid.start
    for i, (time, (now, after)) in enumerate(zip(grid.times, pairwise(grid.levels), strict=True)):
        denoised = now.alpha * latents - now.sigma * network(latents, time)
        update = plan_step(solver, memory, now, after, steps - i)
        latents, corrected = step(latents, denoised, [memory], [update], [noise(1 + i)[0]])
        memory.remember(solver, now, denoised[0], corrected[0], update.order)
    return latents


def theirs(scheduler, steps, monkeypatch):
    scheduler.set_timesteps(steps)
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    drawn = iter(range(1, steps + 1))
    if isinstance(scheduler, EulerAncestralDiscreteScheduler):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise(next(drawn)))
    exploding = float(scheduler.init_noise_sigma) != 1.0
    latents = noise() * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, time) if exploding else latents
        latents = scheduler.step(network(scaled, float(time)), time, latents).prev_sample
    return latents


def settings(name):
    return {**SCHEDULES[name], "prediction_type": "v_prediction", "steps_offset": 1, "clip_sample": False}


@pytest.mark.parametrize("name", ["cosine, trailing", "Stable Diffusion", "zero terminal SNR"])
@pytest.mark.parametrize("steps", [1, 4, 10, 25, 50])
def test_ddim_equals_diffusers(name, steps, monkeypatch):
    scheduler = DDIMScheduler(**settings(name))
    mine = ours(NoiseSchedule(scheduler.config), "ddim", steps)
    torch.testing.assert_close(mine, theirs(scheduler, steps, monkeypatch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", CLASSES)
@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("steps", [2, 3, 8, 14, 20, 50])
def test_solvers_equal_diffusers(solver, name, steps, monkeypatch):
    config = DDIMScheduler.from_config(settings(name)).config | settings(name)
    scheduler = CLASSES[solver].from_config(config)
    expected = theirs(scheduler, steps, monkeypatch)
    grid = NoiseSchedule(config).grid(solver, steps)
    assert list(grid.times) == [float(time) for time in scheduler.timesteps]
    assert len(grid.levels) == steps + 1
    # The cosine schedule starts at sigma / alpha = 20,000, too much for the float32 of diffusers' Euler: it loses
    # three digits, and for some N its ancestral steps take the root of a negative number.
    rough = solver.startswith("euler") and name.startswith("cosine")
    mine = ours(NoiseSchedule(config), solver, steps)
    assert mine.isfinite().all()
    if not (rough and expected.isnan().all()):
        torch.testing.assert_close(mine, expected, atol=2e-3 if rough else 5e-6, rtol=0)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
def test_zero_terminal_snr_is_close_to_diffusers(solver, monkeypatch):
    # diffusers puts alpha = 2^-12 in place of the zero everywhere, we only where a logarithm needs it.
    config = settings("zero terminal SNR")
    expected = theirs(CLASSES[solver].from_config(config), 20, monkeypatch)
    torch.testing.assert_close(ours(NoiseSchedule(config), solver, 20), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("solver", DISCRETE_SOLVERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_run_length_has_its_own_descending_times(solver, spacing):
    schedule = NoiseSchedule({"timestep_spacing": spacing, "steps_offset": 1})
    for steps in [*range(1, 130, 3), 201, 397]:
        grid = schedule.grid(solver, steps)
        assert len(grid.times) == len(grid.levels) - 1 == steps
        assert min(grid.times) >= 0
        assert all(later < earlier for earlier, later in pairwise(grid.times))
        assert all(later.ratio < earlier.ratio for earlier, later in pairwise(grid.levels))


def test_the_end_of_a_run_follows_the_scheduler():
    assert NoiseSchedule({"set_alpha_to_one": True}).grid("ddim", 5).levels[-1] == Level(1.0, 0.0)
    schedule = NoiseSchedule({"set_alpha_to_one": False})
    assert schedule.grid("ddim", 5).levels[-1] == schedule.level(0.0)
    assert schedule.grid("dpmpp_2m", 5).levels[-1] == Level(1.0, 0.0)


def test_levels_between_whole_steps():
    schedule = NoiseSchedule(settings("Stable Diffusion"))
    below, between, above = (schedule.level(t) for t in (500.0, 500.25, 501.0))
    assert between.ratio == pytest.approx(0.75 * below.ratio + 0.25 * above.ratio)
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1.0)
    assert schedule.level(5000.0) == schedule.level(999.0)


def test_schedule_names_tell_schedules_apart():
    names = {NoiseSchedule(settings(name)).name for name in SCHEDULES}
    assert len(names) == len(SCHEDULES)


def test_rows_do_not_touch_each_other():
    rows = [
        Update(0.5, 0.25),
        Update(0.1, 2.0, (-0.5, 0.25), corrector=(0.0, 0.1, 0.2, 0.3, 0.4)),
        Update(1.0, 0.0, noise=0.5),
        Update(1.0, 0.0),
    ]
    latents, denoised = torch.randn(4, 4, 2, 2), torch.randn(4, 4, 2, 2)
    latents[3] = math.nan
    memories = [Memory() for _ in rows]
    memories[1] = Memory(past=[torch.ones(4, 2, 2), torch.rand(4, 2, 2)], anchor=torch.rand(4, 2, 2))
    noises = [None, None, torch.rand(4, 2, 2), None]
    joint, corrected = step(latents, denoised, memories, rows, noises)
    for i, row in enumerate(rows[:3]):
        single, kept = step(latents[i : i + 1], denoised[i : i + 1], memories[i : i + 1], [row], noises[i : i + 1])
        assert torch.equal(joint[i : i + 1], single)
        assert torch.equal(corrected[i : i + 1], kept)
    assert joint[3].isnan().all()
