"""A tiny Stable Diffusion 3 with random weights."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from engine_helpers import SIDE
from flow_helpers import clip_config, tiny_t5, tiny_vae
from transformers import CLIPTextModelWithProjection

from benchmarks.tiny_model import tiny_tokenizer


def build_tiny_sd3(
    folder: Path, *, t5: bool = True, newer: bool = False, channels: int = 4, **scheduler: object
) -> Path:
    """Write a random-weight pipeline (16x16x4 latents, 32x32 pictures) in diffusers' layout.

    `newer` gives the transformer what SD3.5 adds: normalised queries and keys, dual attention.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        text_encoder_3, tokenizer_3 = tiny_t5(32) if t5 else (None, None)
        pipeline = StableDiffusion3Pipeline(
            transformer=_transformer(newer, channels),
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
            vae=tiny_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(clip_config(8)),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(clip_config(16)),
            tokenizer_2=tiny_tokenizer(),
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
    pipeline.save_pretrained(folder)
    (folder / "headstart.json").write_text(json.dumps({"image_size": SIDE}))
    return folder


def _transformer(newer: bool, channels: int) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=channels,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=24,
        dual_attention_layers=(0,) if newer else (),
        qk_norm="rms_norm" if newer else None,
    )
