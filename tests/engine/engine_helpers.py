"""A tiny Stable Diffusion with random weights, and short ways to run jobs on it."""

import json
from contextlib import aclosing
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from service.engine.base import CapturedState, JobFailed, JobResult, JobSpec, ResumePoint
from service.engine.loop import StepLoop

SIDE = 32


def build_tiny_model(folder: Path, **scheduler: object) -> Path:
    """Write a random-weight pipeline (16x16x4 latents, 32x32 pictures) in diffusers' layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            scaling_factor=0.5,
            sample_size=32,
        )
        tokenizer = tiny_tokenizer()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        text_encoder = CLIPTextModel(config)
    settings = {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "steps_offset": 1,
        "clip_sample": False,
    }
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**{**settings, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    wishes = {"default_guidance": 2.0, "default_steps": 8, "image_size": SIDE}
    (folder / "headstart.json").write_text(json.dumps(wishes))
    return folder


def tiny_tokenizer() -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def spec(job_id: str = "a", **changes: object) -> JobSpec:
    fields = {
        "job_id": job_id,
        "prompt": "a red cube",
        "negative_prompt": "",
        "seed": 7,
        "steps": 8,
        "guidance_scale": 3.0,
        "solver": "ddim",
        "width": SIDE,
        "height": SIDE,
    }
    return JobSpec(**{**fields, **changes})


def point(state: CapturedState, max_divergence: float = 1e9, **changes: object) -> ResumePoint:
    fields = {
        "latent": state.latent,
        "timestep": state.timestep,
        "log_snr": state.log_snr,
        "skip": state.skip,
        "prediction": state.prediction,
        "max_divergence": max_divergence,
        "depth": state.depth,
    }
    return ResumePoint(**{**fields, **changes})


def drive(loop: StepLoop, *specs: JobSpec) -> dict[str, JobResult | JobFailed]:
    """Run jobs to their end, all submitted at once."""
    for item in specs:
        loop.submit(item, 0.0)
    return finish(loop)


def finish(loop: StepLoop) -> dict[str, JobResult | JobFailed]:
    ends: dict[str, JobResult | JobFailed] = {}
    while not loop.idle:
        ends.update({e.job_id: e for e in loop.tick() if isinstance(e, JobResult | JobFailed)})
    return ends


def alone(pipeline: object, item: JobSpec) -> JobResult:
    result = drive(StepLoop(pipeline), item)[item.job_id]
    assert isinstance(result, JobResult)
    return result


async def collect(engine: object, item: JobSpec) -> list[object]:
    async with aclosing(engine.run(item)) as events:
        return [event async for event in events]
