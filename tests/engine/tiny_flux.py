"""A tiny FLUX with random weights."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from engine_helpers import SIDE
from flow_helpers import clip_config, tiny_t5, tiny_vae
from transformers import CLIPTextModel

from benchmarks.tiny_model import tiny_tokenizer

DEV = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 16,
    "max_image_seq_len": 256,
}


def build_tiny_flux(folder: Path, *, guided: bool = True, channels: int = 16, **scheduler: object) -> Path:
    """Write a random-weight pipeline (16x16x4 latents in 8x8 tokens, 32x32 pictures) in diffusers' layout.

    `guided` is FLUX.1 dev, with guidance embedded and noise levels moved by the picture's size; else schnell.
    """
    settings = DEV if guided else {"shift": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        text_encoder_2, tokenizer_2 = tiny_t5(32)
        pipeline = FluxPipeline(
            transformer=_transformer(guided, channels),
            scheduler=FlowMatchEulerDiscreteScheduler(**{**settings, **scheduler}),
            vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(clip_config(16)),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
    pipeline.save_pretrained(folder)
    (folder / "headstart.json").write_text(json.dumps({"image_size": SIDE}))
    return folder


def _transformer(guided: bool, channels: int) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
