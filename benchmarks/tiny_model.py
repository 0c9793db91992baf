"""A tiny Stable Diffusion with random weights, for benchmarks and tests: for counts, never for quality."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from policies.matching import ThresholdRow, ThresholdTable
from service.embedder import packaged_model, verified_digest
from service.engine.loading import load_pipeline

SIDE = 32
LENGTH = 24
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
LEAST_SIMILARITY, MOST_DIVERGENCE = 0.6, 100.0
_SCHEDULE = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
}


def build_tiny_model(folder: Path, **scheduler: object) -> Path:
    """Write a random-weight pipeline (16x16x4 latents, 32x32 pictures) in diffusers' layout.

    Args:
        folder: where to.
        scheduler: what is to differ in the configuration of the DDIM scheduler.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, vae, tokenizer = _unet(), _vae(), tiny_tokenizer()
        text_encoder = _text_encoder(tokenizer)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**{**_SCHEDULE, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    defaults = {"default_guidance": 2.0, "default_steps": 8, "image_size": SIDE}
    (folder / "headstart.json").write_text(json.dumps(defaults))
    return folder


def build_resuming_model(folder: Path, *, judged_at: float | None = LEVELS[0]) -> Path:
    """Write a tiny model with a threshold table beside it that resumes anything similar, as deep as there are states.

    Args:
        folder: where to.
        judged_at: level at which the gate judges, and lets everything through; None = at the level resumed.
    """
    build_tiny_model(folder)
    info = load_pipeline(str(folder), "cpu", "float32").info
    key = {
        "weights_digest": info.weights_digest,
        "embedder_digest": verified_digest(packaged_model()),
        "schedule": info.schedule,
    }
    rows = tuple(ThresholdRow(level, LEAST_SIMILARITY, MOST_DIVERGENCE) for level in LEVELS)
    ThresholdTable(rows, key, judged_at=judged_at).save(folder / "matching.json")
    return folder


def tiny_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer that knows single letters."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.5,
        sample_size=SIDE,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)
