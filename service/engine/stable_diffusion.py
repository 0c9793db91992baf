"""Stable Diffusion 1.x/2.x and its like over diffusers' own model classes."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from service.engine.base import EngineStartError, ImageArray, ModelInfo, Rows
from service.engine.digest import weights_digest
from service.engine.schedule import NoiseSchedule

ENCODED_PROMPTS = 512
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SOLVER_NAMES = ("ddim", "dpmpp_2m")


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
        self._alphas = self._schedule.alphas.float().to(device)
        self._sigmas = self._schedule.sigmas.float().to(device)
        self._encoded: OrderedDict[bytes, Tensor] = OrderedDict()
        self._check()
        self.info = self._describe(folder, model_id)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return text-encoder states [B, L, D]; every distinct prompt is encoded once, alone.

        Encoding one by one makes the states a pure function of the prompt: no batch mate can change a decimal.
        """
        return torch.stack([self._encode_one(prompt) for prompt in prompts])

    def initial_noise(self, seed: int, width: int, height: int) -> Tensor:
        """Return unit Gaussian noise float32 [C, h, w], drawn on the CPU so that it is equal on all devices."""
        generator = torch.Generator("cpu").manual_seed(seed)
        shape = (self.info.latent_channels, height // self._scale, width // self._scale)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self._device)

    def timesteps(self, steps: int) -> Tensor:
        """Return the descending time values float32 [N] of an N-step run."""
        return self._schedule.timesteps(steps)

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), float64 on the CPU; t < 0 is the level the scheduler ends at."""
        return self._schedule.alpha_sigma(timesteps)

    @torch.inference_mode()
    def predict(self, rows: Rows) -> Tensor:
        """Return the guided prediction of the clean latent x0, float32 [B, C, h, w].

        Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) as extra rows of the same forward:
        uncond + g (cond - uncond). As in diffusers, rows with g <= 1 need no unconditional row.
        """
        guided = (rows.guidance > 1.0).nonzero().flatten()
        order = torch.cat([torch.arange(len(rows.latents), device=guided.device), guided])
        states = torch.cat([rows.conditions, rows.negatives[guided]])
        output = self._network(rows.latents[order], rows.timesteps[order], states)
        conditional, unconditional = output[: len(rows.latents)], output[len(rows.latents) :]
        scale = rows.guidance[guided].view(-1, 1, 1, 1)
        conditional[guided] = unconditional + scale * (conditional[guided] - unconditional)
        return self._clean(rows.latents, rows.timesteps, conditional)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3] pictures of clean latents [B, C, h, w]."""
        scaled = (latents / self._vae.config.scaling_factor).to(self._dtype)
        images = self._vae.decode(scaled, return_dict=False)[0].float()
        levels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures: ImageArray = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pictures

    def _network(self, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        output: Tensor = self._unet(
            latents.to(self._dtype), timesteps, encoder_hidden_states=states, return_dict=False
        )[0]
        return output.float()

    def _clean(self, latents: Tensor, timesteps: Tensor, output: Tensor) -> Tensor:
        """Turn the network's output into x0, by what it was trained to predict."""
        index = timesteps.round().long()
        alpha, sigma = self._alphas[index].view(-1, 1, 1, 1), self._sigmas[index].view(-1, 1, 1, 1)
        if self.info.prediction_type == "epsilon":
            return (latents - sigma * output) / alpha
        if self.info.prediction_type == "v_prediction":
            return alpha * latents - sigma * output
        return output

    def _encode_one(self, prompt: str) -> Tensor:
        key = hashlib.sha256(prompt.encode()).digest()
        if key not in self._encoded:
            self._encoded[key] = self._run_text_encoder(prompt)
            if len(self._encoded) > ENCODED_PROMPTS:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    @torch.inference_mode()
    def _run_text_encoder(self, prompt: str) -> Tensor:
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
        return states[0]

    def _check(self) -> None:
        unet, kind = self._unet.config, self._schedule.prediction_type
        if unet.in_channels != self._vae.config.latent_channels or unet.out_channels != unet.in_channels:
            raise EngineStartError(f"the UNet takes {unet.in_channels} channels: not a plain text-to-image model")
        if unet.addition_embed_type is not None or unet.class_embed_type is not None:
            raise EngineStartError("the UNet needs more than text and time: not a Stable Diffusion 1.x/2.x model")
        if kind not in PREDICTION_TYPES:
            raise EngineStartError(f"prediction type {kind!r} is not one of {', '.join(PREDICTION_TYPES)}")

    def _describe(self, folder: Path, model_id: str) -> ModelInfo:
        wishes = _own_defaults(folder)
        sample = self._unet.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else (sample[0], sample[1])
        side = wishes.get("image_size")
        width, height = (side, side) if side else (width * self._scale, height * self._scale)
        preferred = wishes.get("default_solver", SOLVER_NAMES[0])
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
            solvers=(preferred, *(name for name in SOLVER_NAMES if name != preferred)),
            latent_channels=int(self._unet.config.in_channels),
            dtype=str(self._dtype).removeprefix("torch."),
        )

    def _coarsest(self) -> int:
        """Return how many latent cells one cell of the network's coarsest grid covers."""
        return int(2 ** (len(self._unet.config.block_out_channels) - 1))


def _own_defaults(folder: Path) -> dict[str, Any]:
    """Read the optional `headstart.json` beside the model.

    Keys: image_size, max_size (pixels), default_steps, default_guidance, default_solver.
    """
    path = folder / "headstart.json"
    if not path.is_file():
        return {}
    try:
        wishes: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise EngineStartError("headstart.json beside the model is not valid JSON") from error
    if wishes.get("default_solver", SOLVER_NAMES[0]) not in SOLVER_NAMES:
        raise EngineStartError(f"headstart.json: default_solver must be one of {', '.join(SOLVER_NAMES)}")
    return wishes
