"""Stable Diffusion 1.x/2.x and its like over diffusers' own model classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from service.engine.base import Condition, EngineStartError, Lora, Rows
from service.engine.families.common import EncodedPrompts
from service.engine.families.discrete import DiscreteFamily, Traits
from service.engine.features.backbone import Inputs
from service.engine.placement import Placement


class StableDiffusion(DiscreteFamily):
    """A `Pipeline` over UNet2DConditionModel, AutoencoderKL and CLIPTextModel.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder is not a plain text-to-image Stable Diffusion.
    """

    # As in diffusers' own pipeline; every AutoencoderKL says it would overflow unless told otherwise.
    upcasts = False
    follows_shipped = False

    def __init__(self, folder: Path, model_id: str, place: Placement) -> None:
        parts = StableDiffusionPipeline.from_pretrained(
            folder, dtype=place.dtype, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
        _check(parts)
        super().__init__(parts, place)
        self._text_encoder = parts.text_encoder.to(place.device).eval()
        self._tokenizer = parts.tokenizer
        self._encoded = EncodedPrompts(self._adapters.encoder(self._encode_one))
        config = self._denoiser.config
        cell = 2 ** (len(config.block_out_channels) - 1)
        traits = Traits("stable-diffusion", config.sample_size, cell, config.in_channels, steps=50, guidance=7.5)
        self.info = self._describe(folder, model_id, traits)

    def encode(
        self, prompt: str, width: int, height: int, *, negative: bool = False, loras: tuple[Lora, ...] = ()
    ) -> Condition:
        """Return {"states": text-encoder states [L, D]}."""
        return self._encoded.get(prompt, loras)

    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        return {
            "sample": rows.latents[order].to(self._dtype),
            "timestep": rows.timesteps[order],
            "encoder_hidden_states": conditions["states"],
        }

    @torch.inference_mode()
    def _encode_one(self, prompt: str) -> Condition:
        tokens = self._tokenizer(
            [prompt],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        config = self._text_encoder.config.to_dict()
        mask = tokens.attention_mask.to(self._device) if config.get("use_attention_mask") else None
        states: Tensor = self._text_encoder(tokens.input_ids.to(self._device), attention_mask=mask)[0]
        return {"states": states[0]}


def _check(parts: Any) -> None:
    unet = parts.unet.config
    if unet.in_channels != parts.vae.config.latent_channels or unet.out_channels != unet.in_channels:
        raise EngineStartError(f"the UNet takes {unet.in_channels} channels: not a plain text-to-image model")
    if unet.addition_embed_type is not None or unet.class_embed_type is not None:
        raise EngineStartError("the UNet needs more than text and time: not a Stable Diffusion 1.x/2.x model")
