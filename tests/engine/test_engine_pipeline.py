"""The Stable Diffusion family against diffusers' own pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from engine_helpers import SIDE, alone, spec

from benchmarks.tiny_model import build_tiny_model
from service.engine.base import EngineStartError, Rows
from service.engine.families.common import EncodedPrompts
from service.engine.foreign import DISCRETE_FOREIGN
from service.engine.job import Job
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop


def reference(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, item, kind):
    return pipe(
        item.prompt,
        negative_prompt=item.negative_prompt,
        num_inference_steps=item.steps,
        guidance_scale=item.guidance_scale,
        generator=torch.Generator().manual_seed(item.seed),
        width=item.width,
        height=item.height,
        output_type=kind,
    ).images


def final_latent(pipeline, item):
    loop = StepLoop(pipeline)
    loop.submit(item, 0.0)
    while True:
        job = loop._active[0] if loop._active else None
        loop.tick()
        if isinstance(job, Job) and job.done:
            return job.latent


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_equal_diffusers(tmp_path, kind, guidance):
    folder = build_tiny_model(tmp_path, prediction_type=kind, beta_schedule="scaled_linear")
    item = spec(guidance_scale=guidance, negative_prompt="blue", steps=10)
    pipeline, pipe = load_pipeline(str(folder), "cpu"), reference(folder)
    assert pipeline.info.prediction_type == kind
    latent = final_latent(pipeline, item)
    scale = max(1.0, float(latent.abs().max()))
    torch.testing.assert_close(latent, draw(pipe, item, "latent")[0], atol=1e-4 * scale, rtol=0)
    expected = (draw(pipe, item, "np")[0] * 255).round()
    assert np.abs(alone(pipeline, item).image - expected).max() <= 1


SWAPPED = {
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


@pytest.mark.parametrize("solver", SWAPPED)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_other_solvers_pictures_equal_diffusers(tmp_path, solver, spacing):
    folder = build_tiny_model(
        tmp_path, beta_schedule="scaled_linear", beta_end=0.012, beta_start=0.00085, timestep_spacing=spacing
    )
    pipeline, pipe = load_pipeline(str(folder), "cpu"), reference(folder)
    item = spec(solver=solver, steps=10)
    pipe.scheduler = SWAPPED[solver].from_config(pipe.scheduler.config)
    latent = final_latent(pipeline, item)
    torch.testing.assert_close(latent, draw(pipe, item, "latent")[0], atol=2e-4, rtol=0)
    assert pipe.scheduler.timesteps.tolist() == list(pipeline.grid(solver, 10, SIDE, SIDE).times)


def test_oblong_pictures(tiny_model, pipeline):
    item = spec(width=64, height=48)
    image = alone(pipeline, item).image
    assert image.shape == (48, 64, 3)
    assert np.abs(image - (draw(reference(tiny_model), item, "np")[0] * 255).round()).max() <= 1


def test_encoding_is_exact_and_done_once(pipeline, monkeypatch):
    one, other = (pipeline.encode(prompt, SIDE, SIDE)["states"] for prompt in ("one thing", "another thing"))
    assert one.shape == (24, 16)
    assert not torch.equal(one, other)
    assert pipeline.encode("one thing", SIDE, SIDE)["states"] is one


def test_the_memory_of_encoded_prompts_is_bounded():
    made = []
    memory = EncodedPrompts(lambda prompt: made.append(prompt) or {}, limit=2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        memory.get(prompt)
    assert made == ["a", "b", "c", "b"]
    assert len(memory) == 2


def test_rows_without_guidance_cost_one_network_row(pipeline, monkeypatch):
    seen = []
    inputs = pipeline.network.inputs
    monkeypatch.setattr(
        pipeline.network, "inputs", lambda order, *rest: seen.append(len(order)) or inputs(order, *rest)
    )
    states = {"states": torch.stack([pipeline.encode(prompt, SIDE, SIDE)["states"] for prompt in "abc"])}
    levels = [pipeline.level(t) for t in (999.0, 500.0, 20.0)]
    rows = Rows(
        latents=torch.randn(3, 4, 16, 16),
        timesteps=torch.tensor([999.0, 500.0, 20.0]),
        alphas=torch.tensor([level.alpha for level in levels]),
        sigmas=torch.tensor([level.sigma for level in levels]),
        conditions=states,
        negatives=states,
        guidance=torch.tensor([1.0, 2.0, 1.0]),
    )
    assert pipeline.predict(rows).shape == rows.latents.shape
    assert seen == [4]


def test_noise_is_a_pure_function_of_seed_and_size(pipeline):
    noise = pipeline.initial_noise(5, SIDE, SIDE)
    torch.randn(3)
    assert torch.equal(noise, pipeline.initial_noise(5, SIDE, SIDE))
    assert not torch.equal(noise, pipeline.initial_noise(6, SIDE, SIDE))
    assert noise.shape == (4, 16, 16)
    assert noise.dtype == torch.float32


def test_what_the_service_is_told(pipeline, tiny_model):
    info = pipeline.info
    assert (info.model_id, info.family) == (tiny_model.name, "stable-diffusion")
    assert (info.width, info.height, info.size_multiple, info.max_size) == (32, 32, 4, 64)
    assert (info.default_steps, info.default_guidance, info.latent_channels) == (8, 2.0, 4)
    assert info.solvers == ("ddim", "euler", "dpmpp_2m", "unipc", "euler_ancestral", *DISCRETE_FOREIGN)
    assert info.guidance == "classifier-free"
    assert info.schedule.startswith("squaredcos_cap_v2-trailing-")


def test_the_digest_names_the_weights(tiny_model, tmp_path, pipeline):
    same = shutil.copytree(tiny_model, tmp_path / "same")
    (same / "README.md").write_text("says nothing of pictures")
    assert load_pipeline(str(same), "cpu").info.weights_digest == pipeline.info.weights_digest
    coarse = load_pipeline(str(same), "cpu", "bfloat16").info
    assert (coarse.weights_digest, coarse.dtype) == (pipeline.info.weights_digest, "bfloat16")
    weights = same / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_pipeline(str(same), "cpu").info.weights_digest != pipeline.info.weights_digest


def test_the_digest_of_large_files_samples_them(tiny_model, tmp_path, monkeypatch):
    from service.engine.digest import weights_digest

    monkeypatch.setattr("service.engine.digest.WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr("service.engine.digest.HEAD_BYTES", 1000)
    model = shutil.copytree(tiny_model, tmp_path / "m")
    before = weights_digest(model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"device": "cuda:99"}, "CUDA"),
        ({"device": "abacus"}, "unknown device"),
        ({"dtype": "int3"}, "unknown dtype"),
    ],
)
def test_bad_settings_are_one_clear_line(tiny_model, changes, line):
    if torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    with pytest.raises(EngineStartError, match=line):
        load_pipeline(str(tiny_model), **{"device": "cpu", "dtype": "float32", **changes})


def test_other_families_are_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(EngineStartError, match="KandinskyPipeline is not supported"):
        load_pipeline(str(tmp_path), "cpu")


def test_broken_models_are_one_clear_line(tiny_model, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "headstart.json").write_text("{")
    with pytest.raises(EngineStartError, match=r"headstart\.json"):
        load_pipeline(str(broken), "cpu")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(EngineStartError, match="cannot load model broken") as caught:
        load_pipeline(str(broken), "cpu")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nowhere_is_one_clear_line(monkeypatch):
    def download(name):
        raise OSError("no such repository\nand much more")

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    with pytest.raises(EngineStartError, match="neither a local folder nor to be had") as caught:
        load_pipeline("nobody/nothing", "cpu")
    assert "\n" not in str(caught.value)


def test_half_precision_draws_nearly_the_same_picture(tiny_model, pipeline):
    half = alone(load_pipeline(str(tiny_model), "cpu", "bfloat16"), spec())
    assert np.abs(half.image.astype(int) - alone(pipeline, spec()).image).mean() < 4
