"""Stable Diffusion 3 and 3.5 over diffusers' own model classes."""

from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from service.engine.base import Condition, EngineStartError, Rows
from service.engine.families.common import flow_latents
from service.engine.families.flow import Defaults, RectifiedFlow, absent
from service.engine.features.backbone import Inputs
from service.engine.placement import Placement

NEEDS = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


class StableDiffusion3(RectifiedFlow):
    """A `Pipeline` over SD3Transformer2DModel, AutoencoderKL, two CLIP text encoders and, if present, T5.

    Esser et al. 2024, arXiv 2403.03206. Without T5 its states are zeros, as in diffusers.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder is not a plain text-to-image Stable Diffusion 3.
    """

    def __init__(self, folder: Path, model_id: str, place: Placement) -> None:
        parts = StableDiffusion3Pipeline.from_pretrained(
            folder, dtype=place.dtype, local_files_only=True, **absent(folder)
        )
        super().__init__(parts, place, patch=int(parts.patch_size), linear=False, needs=NEEDS)
        self._check()
        config = self._denoiser.config
        self.info = self._describe(
            folder,
            model_id,
            Defaults(
                family="stable-diffusion-3",
                side=int(config.sample_size) * self._scale,
                steps=28,
                guidance_scale=7.0,
                guidance="classifier-free",
                limit=int(config.pos_embed_max_size) * self._patch * self._scale,
            ),
        )

    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        return {
            "hidden_states": flow_latents(rows)[order].to(self._dtype),
            "timestep": rows.timesteps[order],
            "encoder_hidden_states": conditions["states"],
            "pooled_projections": conditions["pooled"],
        }

    @torch.inference_mode()
    def _encode_one(self, prompt: str) -> Condition:
        states, _, pooled, _ = self._parts.encode_prompt(
            prompt, None, None, device=self._device, do_classifier_free_guidance=False
        )
        return {"states": states[0], "pooled": pooled[0]}

    def _check(self) -> None:
        config = self._denoiser.config
        if (config.in_channels, self._denoiser.out_channels) != (self._channels, self._channels):
            raise EngineStartError(
                f"the transformer takes {config.in_channels} channels, the VAE {self._channels}: "
                "not a plain text-to-image model"
            )
