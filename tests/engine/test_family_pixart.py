"""PixArt-Σ against diffusers' own pipeline."""

import shutil

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EDMEulerScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from engine_helpers import SIDE, spec
from family_helpers import SCHEDULERS, assert_equals_diffusers, assert_joint_equals_alone, reference, swap_solver
from flow_helpers import edit_json, final_latent
from tiny_pixart import SCHEDULER, STATES, build_tiny_pixart
from transformers.utils import is_sentencepiece_available

from service.engine.base import EngineStartError
from service.engine.foreign import DISCRETE_FOREIGN
from service.engine.loading import load_pipeline

AS_ASKED = {"clean_caption": False, "use_resolution_binning": False}
LONG = "a red cube, " * 100


@pytest.fixture(scope="module")
def tiny_pixart(tmp_path_factory):
    return build_tiny_pixart(tmp_path_factory.mktemp("pixart"))


@pytest.fixture(scope="module")
def pixart(tiny_pixart):
    return load_pipeline(str(tiny_pixart), "cpu")


@pytest.fixture
def theirs(tiny_pixart):
    return reference(PixArtSigmaPipeline, tiny_pixart)


def scheduler(**changes):
    return DPMSolverMultistepScheduler.from_config({**SCHEDULER, **changes})


# Not DDIM: diffusers' ends its steps elsewhere than at the next time where the spacing is "linspace".
@pytest.mark.parametrize("solver", ["dpmpp_2m", "euler", "unipc"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("negative", ["", "blue"])
def test_pictures_equal_diffusers(pixart, theirs, solver, guidance, negative):
    swap_solver(theirs, solver)
    item = spec(solver=solver, guidance_scale=guidance, negative_prompt=negative)
    assert_equals_diffusers(pixart, theirs, item, negative_prompt=negative, **AS_ASKED)


@pytest.mark.parametrize("solver", SCHEDULERS)
def test_well_conditioned_pictures_equal_diffusers(tmp_path, solver):
    settings = {"prediction_type": "v_prediction", "timestep_spacing": "leading", "clip_sample": False}
    folder = build_tiny_pixart(tmp_path, scheduler=scheduler(**settings))
    pipeline, pipe = load_pipeline(str(folder), "cpu"), reference(PixArtSigmaPipeline, folder)
    assert pipeline.info.prediction_type == "v_prediction"
    swap_solver(pipe, solver)
    assert_equals_diffusers(pipeline, pipe, spec(solver=solver), negative_prompt="", **AS_ASKED)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "euler"])
def test_oblong_pictures_equal_diffusers(pixart, theirs, solver):
    swap_solver(theirs, solver)
    item = spec(solver=solver, width=64, height=40, negative_prompt="blue")
    assert_equals_diffusers(pixart, theirs, item, negative_prompt="blue", **AS_ASKED)


@pytest.mark.parametrize("prompt", ["  A Red CUBE ", LONG])
def test_prompts_are_prepared_as_in_diffusers(pixart, theirs, prompt):
    assert_equals_diffusers(
        pixart, theirs, spec(prompt=prompt, solver="dpmpp_2m", steps=4), negative_prompt="", **AS_ASKED
    )


def test_a_network_that_is_told_the_size_equals_diffusers(tmp_path):
    # Diffusers' PixArt-Σ pipeline leaves the size out; its PixArt-α pipeline, same classes, hands it over.
    settings = {"sample_size": 128, "use_additional_conditions": None}
    folder = build_tiny_pixart(tmp_path, scheduler=scheduler(prediction_type="v_prediction"), **settings)
    pipeline, pipe = load_pipeline(str(folder), "cpu"), reference(PixArtAlphaPipeline, folder)
    assert (pipeline.info.width, pipeline.info.height) == (256, 256)
    item = spec(solver="dpmpp_2m", width=64, height=40, negative_prompt="blue")
    assert_equals_diffusers(pipeline, pipe, item, negative_prompt="blue", max_sequence_length=300, **AS_ASKED)
    condition = pipeline.encode("a", 64, 40)
    assert condition["resolution"].tolist() == [40, 64]
    assert condition["aspect_ratio"].tolist() == [40 / 64]
    assert_joint_equals_alone(pipeline)


def test_a_network_without_learned_variance_equals_diffusers(tmp_path):
    folder = build_tiny_pixart(tmp_path, out_channels=4)
    pipeline, pipe = load_pipeline(str(folder), "cpu"), reference(PixArtSigmaPipeline, folder)
    assert_equals_diffusers(pipeline, pipe, spec(solver="dpmpp_2m"), negative_prompt="", **AS_ASKED)


def test_a_mixed_joint_batch_equals_each_job_alone(tmp_path):
    folder = build_tiny_pixart(tmp_path, scheduler=scheduler(prediction_type="v_prediction"))
    assert_joint_equals_alone(load_pipeline(str(folder), "cpu"))


def test_conditions(pixart):
    condition = pixart.encode("a red cube", 64, 40)
    assert {name: tuple(tensor.shape) for name, tensor in condition.items()} == {
        "states": (300, STATES),
        "mask": (300,),
    }
    assert condition["mask"].sum() == 4  # three words and the end
    assert pixart.encode("a red cube", SIDE, SIDE, negative=True)["states"] is condition["states"]
    assert pixart.encode("", SIDE, SIDE, negative=True)["mask"].sum() == 1
    assert pixart.encode(LONG, SIDE, SIDE)["mask"].sum() == 300


@pytest.mark.parametrize("change", ["states", "mask"])
def test_every_condition_counts(pixart, monkeypatch, change):
    item = spec(solver="euler", guidance_scale=1.0)
    latent = final_latent(pixart, item)
    encode = pixart.encode
    other = {"states": torch.zeros(300, STATES), "mask": torch.ones(300, dtype=torch.long)}[change]
    monkeypatch.setattr(pixart, "encode", lambda *key, **more: {**encode(*key, **more), change: other})
    # Far outside what the comparisons with diffusers let pass.
    assert (final_latent(pixart, item) - latent).abs().max() > 1e-4 * latent.abs().max()


def test_what_the_service_is_told(pixart, tiny_pixart):
    info = pixart.info
    assert (info.model_id, info.family) == (tiny_pixart.name, "pixart-sigma")
    assert (info.width, info.height, info.size_multiple, info.max_size) == (32, 32, 4, 64)
    assert (info.default_steps, info.default_guidance, info.latent_channels) == (20, 4.5, 4)
    assert (info.prediction_type, info.dtype, info.guidance) == ("epsilon", "float32", "classifier-free")
    assert info.solvers == ("dpmpp_2m", "ddim", "euler", "unipc", "euler_ancestral", *DISCRETE_FOREIGN)
    assert info.schedule.startswith("linear-linspace-")


def test_half_precision(tiny_pixart):
    half = load_pipeline(str(tiny_pixart), "cpu", "bfloat16")
    assert half.encode("a", SIDE, SIDE)["states"].dtype == torch.bfloat16
    assert torch.isfinite(final_latent(half, spec(solver="dpmpp_2m"))).all()


def test_the_released_layout_names_the_network_by_its_old_class(tiny_pixart, pixart, tmp_path):
    folder = shutil.copytree(tiny_pixart, tmp_path / "m")
    edit_json(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit_json(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    item = spec(solver="dpmpp_2m")
    assert torch.equal(final_latent(load_pipeline(str(folder), "cpu"), item), final_latent(pixart, item))


class TestRefusals:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"text": False}, "T5 text encoder is missing"),
            ({"in_channels": 8}, "takes 8 channels"),
            ({"caption_channels": 12}, "another text encoder"),
            ({"scheduler": EDMEulerScheduler()}, "EDMEulerScheduler has no table of betas"),
        ],
    )
    def test_other_networks_and_schedules(self, tmp_path, settings, line):
        folder = build_tiny_pixart(tmp_path, **settings)
        with pytest.raises(EngineStartError, match=line) as caught:
            load_pipeline(str(folder), "cpu")
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(is_sentencepiece_available(), reason="can read SentencePiece models")
    def test_a_sentencepiece_model_nobody_can_read(self, tiny_pixart, tmp_path):
        folder = shutil.copytree(tiny_pixart, tmp_path / "m")
        (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "spiece.model")
        with pytest.raises(EngineStartError, match="install sentencepiece and protobuf"):
            load_pipeline(str(folder), "cpu")
