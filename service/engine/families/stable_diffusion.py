"""Stable Diffusion 1.x/2.x and its like over diffusers' own model classes."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from service.engine.base import Condition, EngineStartError, ImageArray, ModelInfo, Rows
from service.engine.digest import weights_digest
from service.engine.families.common import (
    EncodedPrompts,
    clean_from,
    own_defaults,
    preferred_first,
    seeded_noise,
    to_pictures,
    with_guidance,
)
from service.engine.levels import Grid, Level
from service.engine.schedule import DISCRETE_SOLVERS, NoiseSchedule

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class StableDiffusion:
    """A `Pipeline` over UNet2DConditionModel, AutoencoderKL and CLIPTextModel.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        device: where the networks run.
        dtype: what they compute in; latents and solvers stay float32.

    Raises:
        EngineStartError: the folder is not a plain text-to-image Stable Diffusion.
    """

    def __init__(self, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> None:
        parts = StableDiffusionPipeline.from_pretrained(
            folder, dtype=dtype, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
        self._unet = parts.unet.to(device).eval()
        self._vae = parts.vae.to(device).eval()
        self._text_encoder = parts.text_encoder.to(device).eval()
        self._tokenizer = parts.tokenizer
        self._scale = int(parts.vae_scale_factor)
        self._device = device
        self._dtype = dtype
        self._schedule = NoiseSchedule(parts.scheduler.config)
        self._encoded = EncodedPrompts(self._encode_one)
        self._check()
        self.info = self._describe(folder, model_id)

    def encode(self, prompt: str, width: int, height: int, *, negative: bool = False) -> Condition:
        """Return {"states": text-encoder states [L, D]}."""
        return self._encoded.get(prompt)

    def initial_noise(self, seed: int, width: int, height: int) -> Tensor:
        """Return unit Gaussian noise float32 [C, h, w]."""
        return seeded_noise(
            seed, (self.info.latent_channels, height // self._scale, width // self._scale), self._device
        )

    def grid(self, solver: str, steps: int, width: int, height: int) -> Grid:
        """Return the time values and noise levels of an N-step run; the size plays no part."""
        return self._schedule.grid(solver, steps)

    def level(self, timestep: float) -> Level:
        """Return the noise level at a time value, whole or fractional."""
        return self._schedule.level(timestep)

    @torch.inference_mode()
    def predict(self, rows: Rows) -> Tensor:
        """Return the guided prediction of the clean latent x0, float32 [B, C, h, w]."""
        return clean_from(with_guidance(rows, self._network), self.info.prediction_type, rows)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3] pictures of clean latents [B, C, h, w]."""
        scaled = (latents / self._vae.config.scaling_factor).to(self._dtype)
        return to_pictures(self._vae.decode(scaled, return_dict=False)[0])

    def _network(self, order: Tensor, rows: Rows, conditions: Condition) -> Tensor:
        output: Tensor = self._unet(
            rows.latents[order].to(self._dtype),
            rows.timesteps[order],
            encoder_hidden_states=conditions["states"],
            return_dict=False,
        )[0]
        return output.float()

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

    def _check(self) -> None:
        unet, kind = self._unet.config, self._schedule.prediction_type
        if unet.in_channels != self._vae.config.latent_channels or unet.out_channels != unet.in_channels:
            raise EngineStartError(f"the UNet takes {unet.in_channels} channels: not a plain text-to-image model")
        if unet.addition_embed_type is not None or unet.class_embed_type is not None:
            raise EngineStartError("the UNet needs more than text and time: not a Stable Diffusion 1.x/2.x model")
        if kind not in PREDICTION_TYPES:
            raise EngineStartError(f"prediction type {kind!r} is not one of {', '.join(PREDICTION_TYPES)}")

    def _describe(self, folder: Path, model_id: str) -> ModelInfo:
        wishes = own_defaults(folder, DISCRETE_SOLVERS)
        sample = self._unet.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else (sample[0], sample[1])
        side = wishes.get("image_size")
        width, height = (side, side) if side else (width * self._scale, height * self._scale)
        return ModelInfo(
            model_id=model_id,
            weights_digest=weights_digest(folder),
            family="stable-diffusion",
            prediction_type=self._schedule.prediction_type,
            schedule=self._schedule.name,
            width=width,
            height=height,
            size_multiple=self._scale * self._coarsest(),
            max_size=int(wishes.get("max_size", 2 * max(width, height))),
            default_steps=int(wishes.get("default_steps", 50)),
            default_guidance=float(wishes.get("default_guidance", 7.5)),
            solvers=preferred_first(DISCRETE_SOLVERS, wishes),
            latent_channels=int(self._unet.config.in_channels),
            dtype=str(self._dtype).removeprefix("torch."),
        )

    def _coarsest(self) -> int:
        """Return how many latent cells one cell of the network's coarsest grid covers."""
        return int(2 ** (len(self._unet.config.block_out_channels) - 1))
