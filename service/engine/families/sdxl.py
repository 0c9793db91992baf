"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952) over diffusers' own model classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from service.engine.base import Condition, EngineStartError, Lora, Rows
from service.engine.families.common import EncodedPrompts
from service.engine.families.discrete import DiscreteFamily, Traits
from service.engine.features.backbone import Inputs
from service.engine.placement import Placement

SIZE_NUMBERS = 6
"""Original height and width, top and left of the crop, target height and width."""


class StableDiffusionXL(DiscreteFamily):
    """A `Pipeline` over UNet2DConditionModel, AutoencoderKL and the two CLIP text encoders.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder is not a plain text-to-image SDXL (a refiner, inpainting, LCM, …).
    """

    def __init__(self, folder: Path, model_id: str, place: Placement) -> None:
        parts = StableDiffusionXLPipeline.from_pretrained(
            folder, dtype=place.dtype, add_watermarker=False, local_files_only=True
        )
        _check(parts)
        super().__init__(parts, place)
        self._encoders = (
            (parts.tokenizer, parts.text_encoder.to(place.device).eval()),
            (parts.tokenizer_2, parts.text_encoder_2.to(place.device).eval()),
        )
        self._zero_when_empty = bool(parts.config.force_zeros_for_empty_prompt)
        self._encoded = EncodedPrompts(self._adapters.encoder(self._encode_one))
        config = self._denoiser.config
        cell = 2 ** (len(config.block_out_channels) - 1)
        traits = Traits("stable-diffusion-xl", config.sample_size, cell, config.in_channels, steps=50, guidance=5.0)
        self.info = self._describe(folder, model_id, traits)

    def encode(
        self, prompt: str, width: int, height: int, *, negative: bool = False, loras: tuple[Lora, ...] = ()
    ) -> Condition:
        """Return {"states": text-encoder states [L, D1 + D2], "pooled": [P], "time_ids": size conditions [6]}.

        The picture is said to be neither scaled nor cropped. An empty negative prompt is all zeros where the model
        was trained so (`force_zeros_for_empty_prompt`).
        """
        text = self._encoded.get(prompt, loras)
        if negative and not prompt and self._zero_when_empty:
            text = {name: torch.zeros_like(tensor) for name, tensor in text.items()}
        sizes = (height, width, 0, 0, height, width)
        return {**text, "time_ids": torch.tensor(sizes, dtype=torch.float32, device=self._device)}

    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        return {
            "sample": rows.latents[order].to(self._dtype),
            "timestep": rows.timesteps[order],
            "encoder_hidden_states": conditions["states"],
            "added_cond_kwargs": {"text_embeds": conditions["pooled"], "time_ids": conditions["time_ids"]},
        }

    @torch.inference_mode()
    def _encode_one(self, prompt: str) -> Condition:
        outputs = [self._run(tokenizer, encoder, prompt) for tokenizer, encoder in self._encoders]
        states = torch.cat([output.hidden_states[-2][0] for output in outputs], dim=-1)
        return {"states": states, "pooled": outputs[-1].text_embeds[0]}

    def _run(self, tokenizer: Any, encoder: Any, prompt: str) -> Any:
        tokens = tokenizer(
            [prompt],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoder(tokens.input_ids.to(self._device), output_hidden_states=True)


def _check(parts: Any) -> None:
    if parts.text_encoder is None or parts.tokenizer is None:
        raise EngineStartError("the first text encoder is missing: an SDXL refiner cannot draw from text alone")
    if parts.text_encoder_2 is None or parts.tokenizer_2 is None:
        raise EngineStartError("the second text encoder is missing: not a complete SDXL model")
    unet, channels = parts.unet.config, parts.vae.config.latent_channels
    if unet.in_channels != channels or unet.out_channels != channels:
        raise EngineStartError(f"the UNet takes {unet.in_channels} channels: not a plain text-to-image model")
    if unet.time_cond_proj_dim is not None:
        raise EngineStartError("the UNet is told its guidance (a latent consistency model), which is not supported")
    if unet.addition_embed_type != "text_time" or unet.class_embed_type or unet.encoder_hid_dim_type:
        raise EngineStartError("the UNet is not conditioned as SDXL's is (text, time, pooled text and picture size)")
    numbers = (unet.projection_class_embeddings_input_dim or 0) - parts.text_encoder_2.config.projection_dim
    if numbers != SIZE_NUMBERS * unet.addition_time_embed_dim:
        raise EngineStartError("the UNet expects other size conditions than the SDXL base model: perhaps a refiner")
