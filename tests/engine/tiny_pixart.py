"""A tiny PixArt-Σ with random weights."""

import string
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from tiny_sdxl import tiny_vae
from transformers import T5Config, T5EncoderModel, T5Tokenizer

STATES = 16  # width of the text states
# As PixArt-alpha/PixArt-Sigma-XL-2-1024-MS ships it.
SCHEDULER = {
    "algorithm_type": "dpmsolver++",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "solver_order": 2,
    "timestep_spacing": "linspace",
}


def build_tiny_pixart(folder: Path, *, scheduler: object = None, text: bool = True, **transformer) -> Path:
    """Write a pipeline of 16x16x4 latents and 32x32 pictures in diffusers' layout.

    Args:
        folder: where to.
        scheduler: in place of PixArt's own.
        text: with the text encoder.
        transformer: settings in place of the tiny transformer's.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_t5_tokenizer()
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=STATES,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
        pipeline = PixArtSigmaPipeline(
            tokenizer=tokenizer,
            text_encoder=T5EncoderModel(config) if text else None,
            vae=tiny_vae(force_upcast=False),
            transformer=_transformer(**transformer),
            scheduler=scheduler or DPMSolverMultistepScheduler.from_config(SCHEDULER),
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_t5_tokenizer() -> T5Tokenizer:
    """One piece per letter, and a few longer ones, so that sums of scores decide."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(letter, -4.0) for letter in ("▁", *string.ascii_letters, *string.digits, ",", ".")]
    words = [(word, -5.0) for word in ("▁a", "▁red", "▁blue", "▁cube", "er", "in")]
    return T5Tokenizer(vocab=[*special, *letters, *words], extra_ids=0)


def _transformer(**settings) -> PixArtTransformer2DModel:
    fields = {
        "sample_size": 16,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "cross_attention_dim": 24,
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": STATES,
        "use_additional_conditions": False,
        "interpolation_scale": 2,
    }
    return PixArtTransformer2DModel(**{**fields, **settings})
