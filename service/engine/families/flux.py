"""FLUX.1 (dev, schnell and their like) over diffusers' own model classes."""

from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from service.engine.base import Condition, EngineStartError, Rows
from service.engine.families.common import flow_latents
from service.engine.families.flow import Defaults, RectifiedFlow, absent
from service.engine.features.backbone import Inputs
from service.engine.placement import Placement

NEEDS = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
# Latent cells per side of an image token.
PATCH = 2


class Flux(RectifiedFlow):
    """A `Pipeline` over FluxTransformer2DModel, AutoencoderKL, CLIPTextModel and T5EncoderModel.

    Guidance-distilled models are told the guidance scale (Meng et al. 2022, arXiv 2210.03142); no model of the family
    looks at the negative prompt.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder is not a plain text-to-image FLUX.
    """

    def __init__(self, folder: Path, model_id: str, place: Placement) -> None:
        parts = FluxPipeline.from_pretrained(folder, dtype=place.dtype, local_files_only=True, **absent(folder))
        super().__init__(parts, place, patch=PATCH, linear=True, needs=NEEDS, pairs=False)
        self._told = bool(parts.transformer.config.guidance_embeds)
        self._check()
        self.info = self._describe(
            folder,
            model_id,
            Defaults(
                family="flux",
                side=int(parts.default_sample_size) * self._scale,
                steps=28 if self._told else 4,
                guidance_scale=3.5 if self._told else 1.0,
                guidance="embedded" if self._told else "none",
            ),
        )

    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        height, width = (side // PATCH for side in rows.latents.shape[-2:])
        states = conditions["states"]
        return {
            "hidden_states": _pack(flow_latents(rows)[order]).to(self._dtype),
            # In this number type, as in diffusers: the network multiplies by 1000 again.
            "timestep": rows.timesteps[order].to(self._dtype) / 1000,
            "guidance": rows.guidance[order] if self._told else None,
            "pooled_projections": conditions["pooled"],
            "encoder_hidden_states": states,
            "txt_ids": states.new_zeros(states.shape[1], 3),
            "img_ids": self._places(height, width),
        }

    def _velocity(self, output: Tensor, rows: Rows) -> Tensor:
        return _unpack(output, *(side // PATCH for side in rows.latents.shape[-2:]))

    def _places(self, height: int, width: int) -> Tensor:
        """Return (0, row, column) of every image token, [height * width, 3]."""
        rows, columns = torch.arange(height, device=self._device), torch.arange(width, device=self._device)
        return torch.cartesian_prod(rows.new_zeros(1), rows, columns)

    @torch.inference_mode()
    def _encode_one(self, prompt: str) -> Condition:
        states, pooled, _ = self._parts.encode_prompt(prompt, device=self._device)
        return {"states": states[0], "pooled": pooled[0]}

    def _check(self) -> None:
        taken, given = self._denoiser.config.in_channels, self._denoiser.out_channels
        if (taken, given) != (self._channels * PATCH**2,) * 2:
            raise EngineStartError(
                f"the transformer takes {taken} channels a token and the VAE's latents have "
                f"{self._channels * PATCH**2}: not a plain text-to-image model"
            )


def _pack(latents: Tensor) -> Tensor:
    """Turn latents [B, C, h, w] into tokens [B, h/2 * w/2, 4 C]."""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def _unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn tokens [B, height * width, 4 C] into latents [B, C, 2 height, 2 width]."""
    return pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, height, width), PATCH)
