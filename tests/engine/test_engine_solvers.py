"""Our solvers against diffusers' schedulers, driven by the same made-up network."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from service.engine.schedule import NoiseSchedule
from service.engine.solvers import SOLVERS, Coefficients, Level, step

SCHEDULES = {
    "cosine, trailing": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    "Stable Diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "set_alpha_to_one": False,
        "timestep_spacing": "leading",
    },
    "zero terminal SNR": {
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    },
}


def network(latents, time):
    """Some smooth function of latent and time: a v-prediction."""
    return torch.tanh(0.7 * latents + 0.3 * torch.roll(latents, 1, -1) + math.sin(time / 200.0))


def ours(config, solver, times, latents):
    schedule = NoiseSchedule(config)
    alphas, sigmas = schedule.alpha_sigma(torch.tensor([*times, -1.0]))
    levels = [Level(a, s) for a, s in zip(alphas.tolist(), sigmas.tolist(), strict=True)]
    previous = before = None
    for i, time in enumerate(times):
        now, after = levels[i], levels[i + 1]
        denoised = now.alpha * latents - now.sigma * network(latents, time)
        row = SOLVERS[solver](before, now, after, i == len(times) - 1)
        latents = step(latents, denoised, [previous], [row])
        previous, before = denoised[0], now
    return latents


def theirs(scheduler, times, latents):
    for time in times:
        latents = scheduler.step(network(latents, float(time)), int(time), latents).prev_sample
    return latents


def settings(name):
    return {**SCHEDULES[name], "prediction_type": "v_prediction", "steps_offset": 1, "clip_sample": False}


def noise():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 10, 25, 50])
def test_ddim_equals_diffusers(name, steps):
    scheduler = DDIMScheduler(**settings(name))
    scheduler.set_timesteps(steps)
    times = NoiseSchedule(scheduler.config).timesteps(steps)
    assert torch.equal(times.long(), scheduler.timesteps)
    expected = theirs(scheduler, times, noise())
    torch.testing.assert_close(ours(scheduler.config, "ddim", times.tolist(), noise()), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM scheduler
@pytest.mark.parametrize("name", ["cosine, trailing", "Stable Diffusion"])
@pytest.mark.parametrize("steps", [2, 8, 14, 15, 20, 50])
def test_dpmpp_2m_equals_diffusers(name, steps):
    times = NoiseSchedule(settings(name)).timesteps(steps)
    config = {k: v for k, v in settings(name).items() if k not in ("set_alpha_to_one", "clip_sample")}
    scheduler = DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++", solver_order=2)
    scheduler.set_timesteps(timesteps=times.long().tolist())
    expected = theirs(scheduler, times, noise())
    torch.testing.assert_close(ours(settings(name), "dpmpp_2m", times.tolist(), noise()), expected, atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM scheduler
def test_dpmpp_2m_at_zero_terminal_snr_is_close_to_diffusers():
    # diffusers puts alpha = 2^-12 in place of the zero everywhere, we only where a logarithm needs it.
    config = settings("zero terminal SNR")
    times = NoiseSchedule(config).timesteps(20)
    config = {k: v for k, v in config.items() if k != "clip_sample"}
    scheduler = DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++", solver_order=2)
    scheduler.set_timesteps(timesteps=times.long().tolist())
    mine = ours(settings("zero terminal SNR"), "dpmpp_2m", times.tolist(), noise())
    torch.testing.assert_close(mine, theirs(scheduler, times, noise()), atol=2e-3, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_run_length_has_its_own_descending_times(spacing):
    schedule = NoiseSchedule({"timestep_spacing": spacing, "steps_offset": 1})
    for steps in [*range(1, 130), 201, 397, 500, 999]:
        times = schedule.timesteps(steps)
        assert len(times) == steps
        assert times.min() >= 0
        assert (times.diff() < 0).all()


def test_the_end_of_a_run_follows_the_scheduler():
    clean = NoiseSchedule({"set_alpha_to_one": True}).alpha_sigma(torch.tensor([-1.0]))
    assert [float(v) for v in clean] == [1.0, 0.0]
    first = NoiseSchedule({"set_alpha_to_one": False}).alpha_sigma(torch.tensor([-1.0, 0.0]))
    assert first[0][0] == first[0][1] < 1.0
    assert first[1][0] == first[1][1] > 0.0


def test_schedule_names_tell_schedules_apart():
    names = {NoiseSchedule(settings(name)).name for name in SCHEDULES}
    assert len(names) == len(SCHEDULES)


def test_rows_do_not_touch_each_other():
    rows = [Coefficients(0.5, 0.25), Coefficients(0.1, 2.0, -0.5), Coefficients(1.0, 0.0)]
    latents, denoised = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    latents[2] = math.nan
    previous = [None, torch.ones(4, 2, 2), None]
    joint = step(latents, denoised, previous, rows)
    for i, row in enumerate(rows[:2]):
        single = step(latents[i : i + 1], denoised[i : i + 1], previous[i : i + 1], [row])
        assert torch.equal(joint[i : i + 1], single)
    assert joint[2].isnan().all()
