"""Stable Diffusion XL against diffusers' own pipeline."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from engine_helpers import SIDE, spec
from family_helpers import SCHEDULERS, assert_equals_diffusers, assert_joint_equals_alone, reference, swap_solver
from flow_helpers import edit_json, final_latent
from tiny_sdxl import PROJECTION, SCHEDULER, WIDTHS, build_tiny_sdxl

from service.engine.base import EngineStartError
from service.engine.foreign import DISCRETE_FOREIGN
from service.engine.loading import load_pipeline


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory):
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl):
    return load_pipeline(str(tiny_sdxl), "cpu")


@pytest.fixture
def theirs(tiny_sdxl):
    return reference(StableDiffusionXLPipeline, tiny_sdxl)


def v_prediction(**changes):
    return EulerDiscreteScheduler.from_config({**SCHEDULER, "prediction_type": "v_prediction", **changes})


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("negative", ["", "blue"])
def test_pictures_equal_diffusers(sdxl, theirs, solver, guidance, negative):
    swap_solver(theirs, solver)
    item = spec(solver=solver, guidance_scale=guidance, negative_prompt=negative)
    assert_equals_diffusers(sdxl, theirs, item, negative_prompt=negative or None)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_oblong_pictures_equal_diffusers(sdxl, theirs, solver):
    swap_solver(theirs, solver)
    item = spec(solver=solver, width=64, height=40, negative_prompt="blue")
    assert_equals_diffusers(sdxl, theirs, item, negative_prompt="blue")


def test_an_empty_negative_prompt_is_encoded_where_the_model_was_trained_so(tmp_path):
    folder = build_tiny_sdxl(tmp_path, zeros=False)
    pipeline = load_pipeline(str(folder), "cpu")
    assert pipeline.encode("", SIDE, SIDE, negative=True)["states"].abs().max() > 0
    item = spec(solver="euler")
    assert_equals_diffusers(pipeline, reference(StableDiffusionXLPipeline, folder), item, negative_prompt=None)


def test_v_prediction_pictures_equal_diffusers(tmp_path):
    folder = build_tiny_sdxl(tmp_path, scheduler=v_prediction(timestep_spacing="trailing"))
    pipeline = load_pipeline(str(folder), "cpu")
    assert pipeline.info.prediction_type == "v_prediction"
    item = spec(solver="euler", negative_prompt="blue")
    assert_equals_diffusers(pipeline, reference(StableDiffusionXLPipeline, folder), item, negative_prompt="blue")


def test_a_mixed_joint_batch_equals_each_job_alone(tmp_path):
    assert_joint_equals_alone(load_pipeline(str(build_tiny_sdxl(tmp_path, scheduler=v_prediction())), "cpu"))


def test_conditions(sdxl):
    condition = sdxl.encode("a red cube", 64, 40)
    assert {name: tuple(tensor.shape) for name, tensor in condition.items()} == {
        "states": (24, sum(WIDTHS)),
        "pooled": (PROJECTION,),
        "time_ids": (6,),
    }
    assert condition["time_ids"].tolist() == [40, 64, 0, 0, 40, 64]
    again = sdxl.encode("a red cube", SIDE, SIDE, negative=True)
    assert again["states"] is condition["states"]
    assert again["time_ids"].tolist() == [SIDE, SIDE, 0, 0, SIDE, SIDE]


def test_only_the_empty_negative_prompt_is_zeros(sdxl):
    zeros = sdxl.encode("", SIDE, SIDE, negative=True)
    assert zeros["states"].abs().max() == zeros["pooled"].abs().max() == 0
    assert zeros["time_ids"].max() == SIDE
    for prompt, negative in (("", False), ("blue", True)):
        assert sdxl.encode(prompt, SIDE, SIDE, negative=negative)["pooled"].abs().max() > 0


@pytest.mark.parametrize("change", ["pooled", "time_ids", "states"])
def test_every_condition_counts(sdxl, monkeypatch, change):
    item = spec(solver="euler", guidance_scale=1.0)
    latent = final_latent(sdxl, item)
    encode = sdxl.encode
    monkeypatch.setattr(
        sdxl, "encode", lambda *key, **more: {**encode(*key, **more), change: 0 * encode(*key)[change]}
    )
    # Far outside what the comparisons with diffusers let pass.
    assert (final_latent(sdxl, item) - latent).abs().max() > 1e-3 * latent.abs().max()


def test_what_the_service_is_told(sdxl, tiny_sdxl):
    info = sdxl.info
    assert (info.model_id, info.family) == (tiny_sdxl.name, "stable-diffusion-xl")
    assert (info.width, info.height, info.size_multiple, info.max_size) == (32, 32, 4, 64)
    assert (info.default_steps, info.default_guidance, info.latent_channels) == (50, 5.0, 4)
    assert (info.prediction_type, info.dtype, info.guidance) == ("epsilon", "float32", "classifier-free")
    assert info.solvers == ("euler", "ddim", "dpmpp_2m", "unipc", "euler_ancestral", *DISCRETE_FOREIGN)
    assert info.schedule.startswith("scaled_linear-leading-")


def test_a_model_that_ships_another_scheduler_or_its_own_defaults(tmp_path):
    turbo = EulerAncestralDiscreteScheduler.from_config({**SCHEDULER, "timestep_spacing": "trailing"})
    folder = build_tiny_sdxl(tmp_path, scheduler=turbo)
    (folder / "headstart.json").write_text('{"default_steps": 1, "default_guidance": 1.0, "image_size": 48}')
    info = load_pipeline(str(folder), "cpu").info
    assert info.solvers[0] == "euler_ancestral"
    assert (info.default_steps, info.default_guidance, info.width, info.height) == (1, 1.0, 48, 48)
    (folder / "headstart.json").write_text('{"default_solver": "unipc"}')
    assert load_pipeline(str(folder), "cpu").info.solvers[0] == "unipc"


class TestDecoding:
    def test_mean_and_deviation_of_the_latents(self, tmp_path):
        scaling = {"latents_mean": [-1.6, 1.1, 0.3, -0.2], "latents_std": [8.4, 5.9, 5.3, 3.1]}
        folder = build_tiny_sdxl(tmp_path, vae=scaling)
        pipeline = load_pipeline(str(folder), "cpu")
        item = spec(solver="euler", guidance_scale=1.0)
        assert_equals_diffusers(pipeline, reference(StableDiffusionXLPipeline, folder), item)

    @pytest.mark.parametrize(
        ("dtype", "upcast", "used"),
        [
            ("float16", True, torch.float32),
            ("float16", False, torch.float16),
            ("bfloat16", True, torch.bfloat16),
            ("float32", True, torch.float32),
        ],
    )
    def test_a_vae_that_overflows_in_half_precision_decodes_in_single(self, tmp_path, dtype, upcast, used):
        folder = build_tiny_sdxl(tmp_path, vae={"force_upcast": upcast})
        pipeline = load_pipeline(str(folder), "cpu", dtype)
        assert (pipeline._vae.dtype, pipeline._denoiser.dtype) == (used, pipeline._dtype)
        assert pipeline.decode(torch.randn(2, 4, 16, 16)).shape == (2, 32, 32, 3)

    def test_nothing_overflows(self, tiny_sdxl, sdxl):
        half = load_pipeline(str(tiny_sdxl), "cpu", "float16")
        latents = torch.randn(1, 4, 16, 16) * 1e4
        assert not torch.isfinite((latents / half._vae.config.scaling_factor).half()).all()
        assert np.abs(half.decode(latents).astype(int) - sdxl.decode(latents)).max() <= 2


class TestRefusals:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"unet": {"in_channels": 9}}, "takes 9 channels"),
            ({"unet": {"time_cond_proj_dim": 8}}, "latent consistency"),
            ({"unet": {"projection_class_embeddings_input_dim": 5 * 8 + PROJECTION}}, "other size conditions"),
            ({"unet": {"addition_embed_type": None}}, "not conditioned as SDXL"),
            ({"scheduler": EDMEulerScheduler()}, "EDMEulerScheduler has no table of betas"),
            ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "has no table of betas"),
            ({"scheduler": v_prediction(prediction_type="flow_prediction")}, "prediction type 'flow_prediction'"),
        ],
    )
    def test_other_networks_and_schedules(self, tmp_path, settings, line):
        folder = build_tiny_sdxl(tmp_path, **settings)
        with pytest.raises(EngineStartError, match=line) as caught:
            load_pipeline(str(folder), "cpu")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("parts", "line"),
        [
            (("text_encoder", "tokenizer"), "refiner"),
            (("text_encoder_2", "tokenizer_2"), "second text encoder is missing"),
        ],
    )
    def test_missing_text_encoders(self, tiny_sdxl, tmp_path, parts, line):
        folder = shutil.copytree(tiny_sdxl, tmp_path / "m")
        edit_json(folder / "model_index.json", **{part: [None, None] for part in parts})
        with pytest.raises(EngineStartError, match=line):
            load_pipeline(str(folder), "cpu")
