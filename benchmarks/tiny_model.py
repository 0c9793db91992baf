"""A tiny model with random weights that resumes anything similar: for counts, never for quality."""

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


def build_resuming_model(folder: Path) -> Path:
    """Write a random-weight Stable Diffusion (16x16x4 latents, 32x32 pictures) with a threshold table beside it.

    The gate judges at the first level and lets everything through, as deep as there are states.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _pipeline().save_pretrained(folder)
    defaults = {"default_guidance": 2.0, "default_steps": 8, "image_size": SIDE}
    (folder / "headstart.json").write_text(json.dumps(defaults))
    info = load_pipeline(str(folder), "cpu", "float32").info
    key = {
        "weights_digest": info.weights_digest,
        "embedder_digest": verified_digest(packaged_model()),
        "schedule": info.schedule,
    }
    rows = tuple(ThresholdRow(level, LEAST_SIMILARITY, MOST_DIVERGENCE) for level in LEVELS)
    ThresholdTable(rows, key, judged_at=LEVELS[0]).save(folder / "matching.json")
    return folder


def _pipeline() -> StableDiffusionPipeline:
    tokenizer = _tokenizer()
    schedule = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


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


def _tokenizer() -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


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
