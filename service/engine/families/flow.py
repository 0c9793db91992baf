"""What the rectified-flow families share: schedule, noise, tokens, decoding, defaults."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from service.engine.adapters import Adapters
from service.engine.base import Condition, EngineStartError, ImageArray, Lora, ModelInfo, Rows
from service.engine.digest import weights_digest
from service.engine.families.common import (
    EncodedPrompts,
    clean_from_flow,
    from_picture,
    own_defaults,
    preferred_first,
    seeded_noise,
    to_pictures,
)
from service.engine.features.backbone import Inputs
from service.engine.features.backbones import architecture_of, backbone_of, policies_of
from service.engine.features.borrowed import backends_of
from service.engine.features.network import Network
from service.engine.foreign import ForeignRun
from service.engine.levels import Grid, Level
from service.engine.placement import Placement
from service.engine.schedule import FlowSchedule

# One encoded prompt takes megabytes: hundreds of states as wide as T5-XXL.
ENCODED_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a family serves when neither the request nor `headstart.json` says otherwise.

    Attributes:
        family: its name.
        side: of the picture, pixels.
        steps: N.
        guidance_scale: guidance.
        guidance: as in `ModelInfo`.
        limit: largest side the network can place its tokens on, pixels; None = any.
    """

    family: str
    side: int
    steps: int
    guidance_scale: float
    guidance: str
    limit: int | None = None


class RectifiedFlow(ABC):
    """The part of a `Pipeline` that SD3 and FLUX have in common.

    Args:
        parts: diffusers' own pipeline, loaded.
        place: where and how it runs.
        patch: side of the square of latent cells that makes one image token.
        linear: diffusers' pipeline hands its scheduler linear shares.
        needs: components the model must have.
        pairs: guidance takes a second network row.

    Attributes:
        network: the denoiser with its guidance and its feature caching.

    Raises:
        EngineStartError: a component is missing, or the scheduler is not a plain flow-matching one.
    """

    info: ModelInfo

    def __init__(
        self,
        parts: Any,
        place: Placement,
        *,
        patch: int,
        linear: bool,
        needs: tuple[str, ...],
        pairs: bool = True,
    ) -> None:
        missing = [name for name in needs if parts.components[name] is None]
        if missing:
            raise EngineStartError(f"the model lacks {', '.join(missing)}")
        self._schedule = _schedule(parts.scheduler, linear=linear)
        place.shrink(parts.transformer)
        self._parts = parts.to(place.device)
        # diffusers without accelerate leaves some modules in single precision.
        self._denoiser = parts.transformer.to(place.dtype)
        self._vae = parts.vae.to(place.dtype)
        place.prepare(self._denoiser, self._vae)
        self.network = Network(self._denoiser, backbone_of(self._denoiser), place, self._inputs, pairs=pairs)
        self._scale = int(parts.vae_scale_factor)
        self._channels = int(parts.vae.config.latent_channels)
        self._patch = patch
        self._place = place
        self._device = place.device
        self._dtype = place.dtype
        self._adapters = Adapters(parts, place.shelf, taken=place.takes_loras)
        self._encoded = EncodedPrompts(self._adapters.encoder(self._encode_one), ENCODED_PROMPTS)

    def encode(
        self, prompt: str, width: int, height: int, *, negative: bool = False, loras: tuple[Lora, ...] = ()
    ) -> Condition:
        """Return {"states": of the tokens [L, D], "pooled": of the whole prompt [P]}, whatever the picture's size."""
        return self._encoded.get(prompt, loras)

    def initial_noise(self, seed: int, width: int, height: int) -> Tensor:
        """Return unit Gaussian noise float32 [C, h, w]."""
        return seeded_noise(seed, (self._channels, height // self._scale, width // self._scale), self._device)

    def grid(self, solver: str, steps: int, width: int, height: int) -> Grid:
        """Return the time values and noise levels of an N-step run."""
        return self._schedule.grid(solver, steps, self._tokens(width, height))

    def foreign(self, solver: str, steps: int, width: int, height: int, entry: float | None) -> ForeignRun:
        """Return a fresh scheduler of diffusers' for one attempt of a job."""
        return self._schedule.foreign(solver, steps, self._tokens(width, height), entry)

    def level(self, timestep: float) -> Level:
        """Return the noise level at a time value, whole or fractional."""
        return self._schedule.level(timestep)

    @torch.inference_mode()
    def predict(self, rows: Rows) -> Tensor:
        """Return the guided prediction of the clean latent x0, float32 [B, C, h, w]."""
        return self.differentiable(rows)

    def differentiable(self, rows: Rows) -> Tensor:
        """Return what `predict` does, with the gradients the rows' latents ask for."""
        self._adapters.use(rows.loras)
        return clean_from_flow(self._velocity(self.network.output(rows), rows), rows)

    def unguided(self, rows: Rows) -> Tensor | None:
        """Return what the last `predict` would have been without guidance; None if no row had any."""
        output = self.network.unguided
        return None if output is None else clean_from_flow(self._velocity(output, rows), rows)

    @abstractmethod
    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        """Return the denoiser's arguments, see `network.MakeInputs`."""

    def _velocity(self, output: Tensor, rows: Rows) -> Tensor:
        """Return the denoiser's output as float32 [B, C, h, w]."""
        return output

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3] pictures of clean latents [B, C, h, w]."""
        config = self._vae.config
        scaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return to_pictures(self._place.decode(self._vae, scaled.to(self._dtype), self._scale))

    @torch.inference_mode()
    def encode_picture(self, image: ImageArray) -> Tensor:
        """Return the clean latent of a picture uint8 [H, W, 3], float32 [C, h, w]."""
        config = self._vae.config
        encoded = self._place.encode(self._vae, from_picture(image, self._device))[0]
        clean: Tensor = (encoded - (config.shift_factor or 0.0)) * config.scaling_factor
        return clean

    def _tokens(self, width: int, height: int) -> int:
        cells = self._scale * self._patch
        return (height // cells) * (width // cells)

    @abstractmethod
    def _encode_one(self, prompt: str) -> Condition:
        """Return what `encode` promises."""

    def _describe(self, folder: Path, model_id: str, own: Defaults) -> ModelInfo:
        wishes = own_defaults(folder, self._schedule.solvers)
        side = int(wishes.get("image_size", own.side))
        largest = int(wishes.get("max_size", 2 * side))
        return ModelInfo(
            model_id=model_id,
            weights_digest=weights_digest(folder),
            family=own.family,
            prediction_type=self._schedule.prediction_type,
            schedule=self._schedule.name,
            width=side,
            height=side,
            size_multiple=self._scale * self._patch,
            max_size=largest if own.limit is None else min(largest, own.limit),
            default_steps=int(wishes.get("default_steps", own.steps)),
            default_guidance=float(wishes.get("default_guidance", own.guidance_scale)),
            solvers=preferred_first(self._schedule.solvers, wishes),
            latent_channels=self._channels,
            dtype=self._place.number_type,
            device=str(self._place.device),
            threads=torch.get_num_threads(),
            guidance=own.guidance,
            loras=self._adapters.supported,
            architecture=architecture_of(self.network.backbone),
            feature_policies=(
                *policies_of(self.network.backbone, pairs=self.network.pairs),
                *backends_of(self._denoiser),
            ),
        )


def absent(folder: Path) -> dict[str, None]:
    """Return the components the model says it does without; diffusers wants to be told so again when it loads."""
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}


def _schedule(scheduler: Any, *, linear: bool) -> FlowSchedule:
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise EngineStartError(f"the scheduler is {type(scheduler).__name__}, not FlowMatchEulerDiscreteScheduler")
    refused = [name for name in ("stochastic_sampling", "invert_sigmas") if scheduler.config[name]]
    if refused:
        raise EngineStartError(f"the scheduler's {refused[0]} is not supported")
    return FlowSchedule(scheduler.config, linear=linear)
