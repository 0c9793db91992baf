"""The Stable Diffusion 3 family against diffusers' own pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from engine_helpers import SIDE, alone, point, spec
from flow_helpers import draw, edit_json, final_latent, final_latents
from tiny_sd3 import build_tiny_sd3

from service.engine.base import EngineStartError
from service.engine.foreign import FLOW_FOREIGN
from service.engine.job import plan_route
from service.engine.loading import load_pipeline
from service.engine.schedule import FLOW_SOLVERS

DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 256}
MODELS = {
    "3": {},
    "3, dynamic shifting": DYNAMIC,
    "3 without T5": {"t5": False},
    "3.5": {"newer": True},
}


def job(name="a", **changes):
    return spec(name, **{"solver": "flow_match_euler", "negative_prompt": "blue", "steps": 6} | changes)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    return {name: build_tiny_sd3(folder / str(i), **kind) for i, (name, kind) in enumerate(MODELS.items())}


@pytest.fixture(scope="module")
def ours(models):
    return {name: load_pipeline(str(folder), "cpu", "float32") for name, folder in models.items()}


@pytest.fixture(scope="module")
def theirs(models):
    without = {"text_encoder_3": None, "tokenizer_3": None}
    pipes = {
        name: StableDiffusion3Pipeline.from_pretrained(folder, **(without if name == "3 without T5" else {}))
        for name, folder in models.items()
    }
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def expected(pipe, item, kind):
    return draw(pipe, item, kind, negative_prompt=item.negative_prompt)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (64, 44)])
def test_latents_and_pictures_equal_diffusers(ours, theirs, name, guidance, size):
    item = job(guidance_scale=guidance, width=size[0], height=size[1])
    latent = final_latent(ours[name], item)
    torch.testing.assert_close(latent, expected(theirs[name], item, "latent"), atol=2e-5, rtol=0)
    image = ours[name].decode(latent[None])[0]
    assert image.shape == (size[1], size[0], 3)
    assert np.abs(image - (expected(theirs[name], item, "np") * 255).round()).max() <= 1


def test_what_is_asked_for_is_what_is_drawn(ours):
    pipeline = ours["3"]
    plain = final_latent(pipeline, job())
    for change in ({"prompt": "two dogs"}, {"negative_prompt": "green"}, {"guidance_scale": 5.0}, {"seed": 8}):
        assert (final_latent(pipeline, job(**change)) - plain).abs().max() > 1e-3


def test_dynamic_shifting_makes_another_grid_for_another_size(ours):
    small, large = (ours["3, dynamic shifting"].grid("unipc", 6, side, side) for side in (SIDE, 64))
    assert small.times != large.times
    assert ours["3"].grid("unipc", 6, SIDE, SIDE) == ours["3"].grid("unipc", 6, 64, 64)


@pytest.mark.parametrize("name", ["3", "3 without T5"])
def test_prompts_become_what_diffusers_makes_of_them(ours, theirs, name):
    prompts = ["a red cube", "", "a very long prompt, longer than the text encoder's window of tokens " * 5]
    for prompt in prompts:
        condition = ours[name].encode(prompt, SIDE, SIDE)
        with torch.inference_mode():
            states, _, pooled, _ = theirs[name].encode_prompt(prompt, None, None, do_classifier_free_guidance=False)
        assert condition["states"].shape == (24 + 256, 32)
        assert torch.equal(condition["states"], states[0])
        assert torch.equal(condition["pooled"], pooled[0])
        assert bool((condition["states"][24:] == 0).all()) == (name == "3 without T5")
    assert ours[name].encode("x", SIDE, SIDE, negative=True) is ours[name].encode("x", 64, SIDE)


def test_noise_is_diffusers_own(ours, theirs):
    shape = (1, 4, 64, 44, torch.float32, "cpu", torch.Generator().manual_seed(5))
    assert torch.equal(ours["3"].initial_noise(5, 44, 64), theirs["3"].prepare_latents(*shape)[0])


@pytest.mark.parametrize("name", ["3", "3, dynamic shifting"])
def test_a_mixed_batch_changes_nothing(ours, name):
    items = [
        job("a", guidance_scale=4.0),
        job("b", prompt="two blue balls", guidance_scale=1.0, steps=4, seed=3),
        job("c", prompt="x", negative_prompt="", guidance_scale=7.0, steps=9, solver="dpmpp_2m"),
        job("d", guidance_scale=2.0, steps=5, solver="unipc"),
    ]
    together = final_latents(ours[name], *items)
    for item in items:
        torch.testing.assert_close(together[item.job_id], final_latent(ours[name], item), atol=1e-4, rtol=0)


def test_resuming_from_its_own_state_is_exact(ours):
    source = alone(ours["3"], job(steps=8, capture=(0.25, 0.5)))
    for state, skipped in zip(source.captured, (2, 4), strict=True):
        again = alone(ours["3"], job("b", steps=8, capture=(0.25, 0.5), resume=(point(state, 0.0),)))
        assert (again.resumed, again.skipped, again.divergences) == (0, skipped, (0.0,))
        np.testing.assert_array_equal(again.image, source.image)


@pytest.fixture(scope="module")
def state_of_fifty(ours):
    """At 15 of 50 steps."""
    (state,) = alone(ours["3, dynamic shifting"], job(steps=50, capture=(0.3,), guidance_scale=1.0)).captured
    return state


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_another_n_enters_at_the_noise_level_not_at_the_index(ours, state_of_fifty, solver):
    pipeline, state = ours["3, dynamic shifting"], state_of_fifty
    source = pipeline.grid("flow_match_euler", 50, SIDE, SIDE)
    assert (state.timestep, state.log_snr) == (source.times[15], source.levels[15].log_snr)
    item = job("b", steps=30, guidance_scale=1.0, solver=solver, resume=(point(state),))
    route = plan_route(pipeline, item, state.timestep)
    own = pipeline.grid(solver, 30, SIDE, SIDE).times
    assert route.levels[0].log_snr == pytest.approx(state.log_snr, abs=1e-4)
    # diffusers spreads SD3's times from end to end: the state lies after 15 of 49 parts, 8 and something of 29.
    assert route.times == (state.timestep, *own[9:])
    assert own[8] > state.timestep
    result = alone(pipeline, item)
    assert (result.resumed, result.skipped) == (0, 8)
    full = alone(pipeline, job("c", steps=30, guidance_scale=1.0, solver=solver))
    assert np.abs(result.image.astype(int) - full.image).max() <= 8


def test_what_the_service_is_told(models, ours):
    info = ours["3"].info
    assert (info.model_id, info.family, info.prediction_type) == (models["3"].name, "stable-diffusion-3", "flow")
    assert (info.width, info.height, info.size_multiple, info.max_size) == (SIDE, SIDE, 4, 64)
    assert (info.default_steps, info.default_guidance, info.latent_channels) == (28, 7.0, 4)
    assert (info.solvers, info.guidance, info.dtype) == ((*FLOW_SOLVERS, *FLOW_FOREIGN), "classifier-free", "float32")
    assert info.schedule.startswith("flow-")
    assert ours["3, dynamic shifting"].info.schedule != info.schedule
    assert len({pipeline.info.weights_digest for pipeline in ours.values()}) == len(MODELS)


def test_a_model_may_say_what_suits_it(models, tmp_path):
    folder = shutil.copytree(models["3"], tmp_path / "turbo")
    wishes = {"default_steps": 4, "default_guidance": 1.0, "default_solver": "unipc", "max_size": 4096}
    (folder / "headstart.json").write_text(json.dumps(wishes))
    info = load_pipeline(str(folder), "cpu").info
    assert (info.default_steps, info.default_guidance, info.solvers[0]) == (4, 1.0, "unipc")
    # From the transformer: 16 latent cells a side, and no place for tokens beyond 24 a side.
    assert (info.width, info.height, info.max_size) == (32, 32, 96)


def test_half_precision_draws_nearly_the_same_picture(models, ours):
    half = alone(load_pipeline(str(models["3"]), "cpu", "bfloat16"), job())
    assert np.abs(half.image.astype(int) - alone(ours["3"], job()).image).mean() < 4


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        ("model_index.json", {"text_encoder_2": [None, None], "tokenizer_2": [None, None]}, "lacks text_encoder_2"),
        ("model_index.json", {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}, "DPMSolverMultistep"),
        ("scheduler/scheduler_config.json", {"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas is not supported"),
        ("headstart.json", {"default_solver": "ddim"}, "default_solver must be one of flow_match_euler"),
    ],
)
def test_other_variants_are_refused_in_one_line(models, tmp_path, part, changes, line):
    folder = shutil.copytree(models["3 without T5"], tmp_path / "other")
    edit_json(folder / part, **changes)
    with pytest.raises(EngineStartError, match=line) as caught:
        load_pipeline(str(folder), "cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_more_than_a_latent_is_refused(tmp_path):
    with pytest.raises(EngineStartError, match="takes 9 channels, the VAE 4: not a plain text-to-image model"):
        load_pipeline(str(build_tiny_sd3(tmp_path, t5=False, channels=9)), "cpu")
