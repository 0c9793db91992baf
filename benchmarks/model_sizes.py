"""How much memory published models' weights take: their networks built without weights, by their published shapes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
import transformers

Network = Any
"""A module of diffusers or transformers, which mypy does not look into."""
Build = Callable[[], Network]
GIB = 2**30
SD_BLOCKS = (320, 640, 1280, 1280)


def unet(cross: int, heads: int | tuple[int, ...], *, linear: bool) -> Network:
    """The denoiser of Stable Diffusion 1.x and 2.x."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=SD_BLOCKS,
        cross_attention_dim=cross,
        attention_head_dim=heads,
        use_linear_projection=linear,
    )


def sdxl() -> Network:
    """The denoiser of SDXL."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=SD_BLOCKS[:3],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sd3() -> Network:
    """The denoiser of Stable Diffusion 3 medium."""
    return diffusers.SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        caption_projection_dim=1536,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )


def pixart() -> Network:
    """The denoiser of PixArt-Sigma XL."""
    return diffusers.PixArtTransformer2DModel(sample_size=128, caption_channels=4096, cross_attention_dim=1152)


def clip(width: int, layers: int, projection: int = 0) -> Network:
    """A text encoder of CLIP's form."""
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    config: Any = transformers.CLIPTextConfig
    shape = config(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=projection or width,
    )
    return kind(shape)


def t5() -> Network:
    """The encoder of T5 XXL."""
    config: Any = transformers.T5Config
    shape = config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    return transformers.T5EncoderModel(shape)


def vae(channels: int) -> Network:
    """Stable Diffusion's autoencoder."""
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
    )


Parts = tuple[Build, tuple[Build, ...], int]
MODELS: dict[str, Parts] = {
    "Stable Diffusion 1.5": (lambda: unet(768, 8, linear=False), (lambda: clip(768, 12),), 4),
    "Stable Diffusion 2.1": (lambda: unet(1024, (5, 10, 20, 20), linear=True), (lambda: clip(1024, 23),), 4),
    "SDXL": (sdxl, (lambda: clip(768, 12), lambda: clip(1280, 32, 1280)), 4),
    "PixArt-Σ": (pixart, (t5,), 4),
    "Stable Diffusion 3 medium": (sd3, (lambda: clip(768, 12, 768), lambda: clip(1280, 32, 1280), t5), 16),
    "FLUX.1": (lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True), (lambda: clip(768, 12), t5), 16),
}
"""Denoiser, text encoders, channels of the latents."""


def parameters(build: Build) -> int:
    """Count what a network of that shape has, without memory for any of it."""
    with torch.device("meta"):
        return sum(int(weight.numel()) for weight in build().parameters())


def sizes_table() -> list[str]:
    """Return a row per model: GiB of its weights in 16 bits."""
    lines = [
        "| model | denoiser: parameters | denoiser, GiB | text encoders, GiB | autoencoder, GiB | together, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, (denoiser, encoders, channels) in MODELS.items():
        core = parameters(denoiser)
        texts = sum(parameters(encoder) for encoder in encoders)
        decoder = parameters(partial(vae, channels))
        sizes = [2 * count / GIB for count in (core, texts, decoder, core + texts + decoder)]
        lines.append(f"| {name} | {core / 1e9:.2f} G | " + " | ".join(f"{size:.1f}" for size in sizes) + " |")
    return lines
