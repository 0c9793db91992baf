"""A tiny Stable Diffusion XL with random weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.tiny_model import tiny_tokenizer

WIDTHS = (16, 24)  # of the two text encoders
PROJECTION = 32
# As stabilityai/stable-diffusion-xl-base-1.0 ships it.
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def build_tiny_sdxl(folder: Path, *, zeros: bool = True, scheduler: object = None, vae=None, unet=None) -> Path:
    """Write a pipeline of 16x16x4 latents and 32x32 pictures in diffusers' layout.

    Args:
        folder: where to.
        zeros: `force_zeros_for_empty_prompt`.
        scheduler: in place of SDXL's own.
        vae: settings in place of the tiny VAE's.
        unet: settings in place of the tiny UNet's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = tiny_tokenizer(), tiny_tokenizer()
        second.pad_token = "!"
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae(**(vae or {})),
            text_encoder=CLIPTextModel(_text_config(first, WIDTHS[0])),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(second, WIDTHS[1])),
            tokenizer=first,
            tokenizer_2=second,
            unet=_unet(**(unet or {})),
            scheduler=scheduler or EulerDiscreteScheduler.from_config(SCHEDULER),
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_vae(**settings) -> AutoencoderKL:
    fields = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
        "sample_size": 32,
    }
    return AutoencoderKL(**{**fields, **settings})


def _unet(**settings) -> UNet2DConditionModel:
    fields = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "cross_attention_dim": sum(WIDTHS),
        "norm_num_groups": 8,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + PROJECTION,
    }
    return UNet2DConditionModel(**{**fields, **settings})


def _text_config(tokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=PROJECTION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
