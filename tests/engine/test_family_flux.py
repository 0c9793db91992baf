"""The FLUX family against diffusers' own pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from engine_helpers import SIDE, alone, point, spec
from flow_helpers import draw, edit_json, final_latent, final_latents
from tiny_flux import build_tiny_flux

from service.engine.base import EngineStartError
from service.engine.families.flux import _pack, _unpack
from service.engine.foreign import FLOW_FOREIGN
from service.engine.job import plan_route
from service.engine.loading import load_pipeline
from service.engine.schedule import FLOW_SOLVERS

MODELS = {
    "dev": {},
    "dev, fixed shift": {"use_dynamic_shifting": False},
    "schnell": {"guided": False},
}


def job(name="a", **changes):
    return spec(name, **{"solver": "flow_match_euler", "steps": 5, "guidance_scale": 3.5} | changes)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    return {name: build_tiny_flux(folder / str(i), **kind) for i, (name, kind) in enumerate(MODELS.items())}


@pytest.fixture(scope="module")
def ours(models):
    return {name: load_pipeline(str(folder), "cpu", "float32") for name, folder in models.items()}


@pytest.fixture(scope="module")
def theirs(models):
    pipes = {name: FluxPipeline.from_pretrained(folder) for name, folder in models.items()}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def expected_latent(pipe, item):
    tokens = draw(pipe, item, "latent")[None]
    return pipe._unpack_latents(tokens, item.height, item.width, pipe.vae_scale_factor)[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("guidance", [1.0, 3.5, 9.0])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (64, 44)])
def test_latents_and_pictures_equal_diffusers(ours, theirs, name, guidance, size):
    item = job(guidance_scale=guidance, width=size[0], height=size[1])
    latent = final_latent(ours[name], item)
    torch.testing.assert_close(latent, expected_latent(theirs[name], item), atol=2e-5, rtol=0)
    image = ours[name].decode(latent[None])[0]
    assert image.shape == (size[1], size[0], 3)
    assert np.abs(image - (draw(theirs[name], item, "np") * 255).round()).max() <= 1


def test_what_is_asked_for_is_what_is_drawn(ours):
    plain = final_latent(ours["dev"], job())
    for change in ({"prompt": "two dogs"}, {"guidance_scale": 5.0}, {"seed": 8}):
        assert (final_latent(ours["dev"], job(**change)) - plain).abs().max() > 1e-3
    assert torch.equal(final_latent(ours["dev"], job(negative_prompt="green")), plain)
    schnell = [final_latent(ours["schnell"], job(guidance_scale=scale)) for scale in (1.0, 9.0)]
    assert torch.equal(*schnell)


def test_guidance_costs_no_second_network_row(ours):
    seen = []
    with ours["dev"]._denoiser.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["hidden_states"])), with_kwargs=True
    ):
        final_latents(ours["dev"], job("a", steps=2), job("b", steps=2, guidance_scale=1.0))
    assert seen == [2, 2]


def test_prompts_become_what_diffusers_makes_of_them(ours, theirs):
    prompts = ["a red cube", "", "a very long prompt, longer than the text encoder's window of tokens " * 9]
    for prompt in prompts:
        condition = ours["dev"].encode(prompt, SIDE, SIDE)
        with torch.inference_mode():
            states, pooled, _ = theirs["dev"].encode_prompt(prompt)
        assert condition["states"].shape == (512, 32)
        assert torch.equal(condition["states"], states[0])
        assert torch.equal(condition["pooled"], pooled[0])
    assert ours["dev"].encode("x", SIDE, SIDE, negative=True) is ours["dev"].encode("x", 64, SIDE)


def test_noise_and_packing_are_diffusers_own(ours, theirs):
    pipe, noise = theirs["dev"], ours["dev"].initial_noise(5, 64, 44)
    assert noise.shape == (4, 22, 32)
    tokens, places = pipe.prepare_latents(1, 4, 44, 64, torch.float32, "cpu", torch.Generator().manual_seed(5))
    assert torch.equal(_pack(noise[None]), tokens)
    assert torch.equal(_unpack(tokens, 11, 16), noise[None])
    assert torch.equal(ours["dev"]._places(11, 16).float(), places)


def test_a_mixed_batch_changes_nothing(ours):
    items = [
        job("a", guidance_scale=4.0),
        job("b", prompt="two blue balls", guidance_scale=1.0, steps=4, seed=3),
        job("c", prompt="x", guidance_scale=7.0, steps=7, solver="dpmpp_2m"),
        job("d", guidance_scale=2.0, steps=5, solver="unipc"),
    ]
    together = final_latents(ours["dev"], *items)
    for item in items:
        torch.testing.assert_close(together[item.job_id], final_latent(ours["dev"], item), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_resuming_from_its_own_state_is_exact(ours, name):
    source = alone(ours[name], job(steps=8, capture=(0.25, 0.5)))
    for state, skipped in zip(source.captured, (2, 4), strict=True):
        assert state.latent.shape == (4, 16, 16)
        again = alone(ours[name], job("b", steps=8, capture=(0.25, 0.5), resume=(point(state, 0.0),)))
        assert (again.resumed, again.skipped, again.divergences) == (0, skipped, (0.0,))
        np.testing.assert_array_equal(again.image, source.image)


@pytest.fixture(scope="module")
def state_of_fifty(ours):
    """At 15 of 50 steps."""
    (state,) = alone(ours["dev"], job(steps=50, capture=(0.3,), guidance_scale=1.0)).captured
    return state


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_another_n_enters_at_the_noise_level_not_at_the_index(ours, state_of_fifty, solver):
    pipeline, state = ours["dev"], state_of_fifty
    source = pipeline.grid("flow_match_euler", 50, SIDE, SIDE)
    assert (state.timestep, state.log_snr) == (source.times[15], source.levels[15].log_snr)
    item = job("b", steps=30, guidance_scale=1.0, solver=solver, resume=(point(state),))
    route = plan_route(pipeline, item, state.timestep)
    own = pipeline.grid(solver, 30, SIDE, SIDE).times
    assert route.levels[0].log_snr == pytest.approx(state.log_snr, abs=1e-4)
    # Linear shares: 15 of 50 steps are 9 of 30, and the noise levels the same.
    assert route.times == (state.timestep, *own[10:])
    assert own[9] == pytest.approx(state.timestep)
    result = alone(pipeline, item)
    assert (result.resumed, result.skipped) == (0, 9)
    full = alone(pipeline, job("c", steps=30, guidance_scale=1.0, solver=solver))
    assert np.abs(result.image.astype(int) - full.image).max() <= 8


def test_what_the_service_is_told(models, ours):
    info = ours["dev"].info
    assert (info.model_id, info.family, info.prediction_type) == (models["dev"].name, "flux", "flow")
    assert (info.width, info.height, info.size_multiple, info.max_size) == (SIDE, SIDE, 4, 64)
    assert (info.default_steps, info.default_guidance, info.latent_channels) == (28, 3.5, 4)
    assert (info.solvers, info.guidance, info.dtype) == ((*FLOW_SOLVERS, *FLOW_FOREIGN), "embedded", "float32")
    schnell = ours["schnell"].info
    assert (schnell.default_steps, schnell.default_guidance, schnell.guidance) == (4, 1.0, "none")
    assert len({pipeline.info.schedule for pipeline in ours.values()}) == len(MODELS)


def test_a_model_may_say_what_suits_it(models, tmp_path):
    folder = shutil.copytree(models["schnell"], tmp_path / "hyper")
    (folder / "headstart.json").write_text(json.dumps({"default_steps": 8, "default_solver": "dpmpp_2m"}))
    info = load_pipeline(str(folder), "cpu").info
    assert (info.default_steps, info.solvers[0]) == (8, "dpmpp_2m")
    # diffusers' own: 128 latent cells a side.
    assert (info.width, info.height, info.max_size) == (256, 256, 512)


def test_half_precision_draws_nearly_the_same_picture(models, ours):
    half = alone(load_pipeline(str(models["dev"]), "cpu", "bfloat16"), job())
    assert np.abs(half.image.astype(int) - alone(ours["dev"], job()).image).mean() < 4


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        ("model_index.json", {"text_encoder_2": [None, None]}, "the model lacks text_encoder_2"),
        ("model_index.json", {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}, "scheduler is EulerDiscrete"),
        ("scheduler/scheduler_config.json", {"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, "model family FluxFillPipeline is not supported"),
    ],
)
def test_other_variants_are_refused_in_one_line(models, tmp_path, part, changes, line):
    folder = shutil.copytree(models["schnell"], tmp_path / "other")
    edit_json(folder / part, **changes)
    with pytest.raises(EngineStartError, match=line) as caught:
        load_pipeline(str(folder), "cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_more_than_a_latent_is_refused(tmp_path):
    with pytest.raises(EngineStartError, match="takes 32 channels a token and the VAE's latents have 16"):
        load_pipeline(str(build_tiny_flux(tmp_path, channels=32)), "cpu")
