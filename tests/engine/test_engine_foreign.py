"""Schedulers of diffusers' kept per job, against diffusers' own pipelines."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusion3Pipeline, StableDiffusionPipeline
from engine_helpers import point, spec
from flow_helpers import draw, final_latent
from mix_helpers import SHARES, Bare, clean
from tiny_sd3 import build_tiny_sd3
from tiny_sdxl import build_tiny_sdxl

from benchmarks.tiny_model import build_tiny_model
from service.engine.base import JobResult, Progress
from service.engine.foreign import DISCRETE_FOREIGN, METHODS, ForeignRun
from service.engine.job import plan_route
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from service.engine.schedule import DISCRETE_SOLVERS, FLOW_SOLVERS, NoiseSchedule

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
MODELS = [("epsilon", "leading"), ("v_prediction", "trailing"), ("v_prediction", "linspace"), ("sample", "leading")]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """Ours and diffusers' own pipeline of one model."""
    kind, spacing = request.param
    settings = {**SCALED, "prediction_type": kind, "timestep_spacing": spacing, "set_alpha_to_one": False}
    folder = build_tiny_model(tmp_path_factory.mktemp("foreign"), **settings)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return load_pipeline(str(folder), "cpu", "float32"), pipe, pipe.scheduler.config


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = build_tiny_model(tmp_path_factory.mktemp("foreign"), **SCALED, timestep_spacing="leading")
    return Bare(load_pipeline(str(folder), "cpu", "float32"))


def job(solver, **changes):
    return spec(**{"solver": solver, "steps": 10, "negative_prompt": "blue"} | changes)


def own_noises(pipeline, item):
    """The engine's noise of every step of a full run."""
    loop = StepLoop(pipeline)
    loop.submit(item, 0.0)
    loop.tick()
    job = loop._active[0]
    for index in range(item.steps):
        job.index = index
        yield torch.randn((1, *job.latent.shape), generator=job.generator())


@pytest.mark.parametrize("solver", DISCRETE_FOREIGN)
def test_latents_equal_diffusers(model, solver, monkeypatch):
    pipeline, pipe, config = model
    method, item = METHODS[solver], job(solver)
    if config.prediction_type == "sample" and solver in ("kdpm2", "pndm"):
        pytest.skip("diffusers' own cannot")
    latent = final_latent(pipeline, item)
    more = {"skip_prk_steps": True} if solver == "pndm" else {}  # as every Stable Diffusion ships it
    pipe.scheduler = method.make.from_config(config, **more)
    if method.random:
        noises = own_noises(pipeline, item)
        module = __import__(method.make.__module__, fromlist=["randn_tensor"])
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(noises))
    expected = draw(pipe, item, "latent", negative_prompt=item.negative_prompt)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(latent, expected, atol=1e-4 * scale, rtol=0)


def test_flow_heun_equals_diffusers(tmp_path):
    folder = build_tiny_sd3(tmp_path)
    pipeline, item = load_pipeline(str(folder), "cpu", "float32"), job("flow_match_heun")
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = METHODS["flow_match_heun"].make.from_config(pipe.scheduler.config)
    expected = draw(pipe, item, "latent", negative_prompt=item.negative_prompt)
    torch.testing.assert_close(final_latent(pipeline, item), expected, atol=1e-4, rtol=0)


def test_they_are_listed_after_the_vectorised_ones(ours):
    assert ours.info.solvers == (*DISCRETE_SOLVERS, *DISCRETE_FOREIGN)


def test_those_that_cannot_know_a_schedule_are_not_listed():
    zero = NoiseSchedule({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    assert zero.solvers == (*DISCRETE_SOLVERS, "ddpm", "lcm")
    assert NoiseSchedule({"algorithm_type": "sde-dpmsolver++"}).solvers == tuple(
        name for name in (*DISCRETE_SOLVERS, *DISCRETE_FOREIGN) if name != "deis"
    )


@pytest.mark.parametrize("solver", DISCRETE_FOREIGN)
class TestResume:
    def test_evaluations_and_steps_are_told_apart(self, ours, solver):
        full = clean(ours, job(solver, capture=SHARES))
        extra = {"heun": 9, "kdpm2": 9, "pndm": 1}.get(solver, 0)
        assert (full.steps, full.skipped, full.wasted, full.evaluations) == (10, 0, 0, 10 + extra)
        assert full.entry is None
        for state in full.captured:
            again = clean(ours, job(solver, capture=SHARES, resume=(point(state),)))
            k = round(10 * state.skip)
            left = 10 - k
            extra = {"heun": left - 1, "kdpm2": left - 1, "pndm": 1}.get(solver, 0)
            assert (again.skipped, again.wasted, again.evaluations) == (k, 0, left + extra)

    def test_progress_counts_steps(self, ours, solver):
        loop = StepLoop(ours)
        loop.submit(job(solver, steps=5), 0.0)
        steps = []
        while not loop.idle:
            steps += [event.step for event in loop.tick() if isinstance(event, Progress)]
        assert steps == [0, 1, 2, 3, 4, 5]

    def test_from_its_own_state(self, ours, solver):
        item = job(solver, capture=SHARES)
        full = clean(ours, item)
        assert len(full.captured) == 2
        for state in full.captured:
            again = clean(ours, replace(item, resume=(point(state, 0.0),)))
            assert again.divergences == (0.0,)
            if METHODS[solver].exact:
                assert again.entry == "exact"
                np.testing.assert_array_equal(again.image, full.image)
            else:
                assert again.entry == "first-order restart"
                assert np.abs(again.image - full.image).max() < 0.1 * np.abs(full.image).max()

    def test_from_another_solvers_state_between_its_own_levels(self, ours, solver):
        source = clean(ours, job("euler", steps=37, capture=(0.3, 0.6)))
        for state in source.captured:
            item = job(solver, resume=(point(state),))
            route = plan_route(ours, item, state.timestep)
            assert route.times[0] == pytest.approx(state.timestep, abs=0.5)
            assert route.levels[0].log_snr == pytest.approx(state.log_snr, abs=0.02)
            assert all(later.ratio <= sooner.ratio for sooner, later in pairwise(route.levels))
            result = clean(ours, item)
            assert result.resumed == 0
            assert abs(result.skipped - 10 * state.skip) <= 1
            assert np.isfinite(result.image).all()

    def test_a_refused_entry_leaves_no_trace(self, ours, solver):
        item = job(solver, capture=SHARES)
        full = clean(ours, item)
        refused = clean(ours, replace(item, resume=(point(full.captured[0], -1.0),)))
        assert (refused.skipped, refused.wasted) == (0, 1)
        assert refused.evaluations == full.evaluations + 1
        np.testing.assert_array_equal(refused.image, full.image)

    def test_one_step_is_enough(self, ours, solver):
        result = clean(ours, job(solver, steps=1))
        assert result.evaluations == 1
        assert np.isfinite(result.image).all()


def test_a_model_distilled_for_lcm_is_served_with_it(tmp_path):
    folder = build_tiny_sdxl(tmp_path, scheduler=LCMScheduler(**SCALED))
    assert load_pipeline(str(folder), "cpu", "float32").info.solvers[:2] == ("lcm", "ddim")


def test_lcm_takes_more_steps_than_it_was_distilled_at(ours):
    assert clean(ours, job("lcm", steps=60)).evaluations == 60


def test_singlestep_states_are_kept_where_nothing_else_is_carried(ours):
    full = clean(ours, job("dpm_singlestep", capture=(0.3, 0.5)))
    assert [state.skip for state in full.captured] == [0.2, 0.4]


def test_a_scheduler_that_raises_fails_its_own_job_only(ours, monkeypatch, caplog):
    def step(*_):
        raise RuntimeError("secret /path")

    monkeypatch.setattr(ForeignRun, "step", step)
    loop = StepLoop(ours)
    loop.submit(job("heun", job_id="bad"), 0.0)
    loop.submit(job("ddim", job_id="good"), 0.0)
    ends = {}
    while not loop.idle:
        ends.update({event.job_id: event for event in loop.tick() if not isinstance(event, Progress)})
    assert ends["bad"].code == "not-finite"
    assert isinstance(ends["good"], JobResult)
    assert "secret" not in caplog.text


def test_flow_solvers(tmp_path):
    pipeline = Bare(load_pipeline(str(build_tiny_sd3(tmp_path)), "cpu", "float32"))
    assert pipeline.info.solvers == (*FLOW_SOLVERS, "flow_match_heun")
    item = job("flow_match_heun", capture=SHARES)
    full = clean(pipeline, item)
    assert full.evaluations == 19
    for state in full.captured:
        again = clean(pipeline, replace(item, resume=(point(state, 0.0),)))
        assert again.entry == "exact"
        np.testing.assert_array_equal(again.image, full.image)
