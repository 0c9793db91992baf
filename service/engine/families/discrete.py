"""What the families on a discrete variance-preserving schedule share: schedule, noise, decoding, defaults."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from service.engine.adapters import Adapters
from service.engine.base import Condition, EngineStartError, ImageArray, ModelInfo, Rows
from service.engine.digest import weights_digest
from service.engine.families.common import (
    clean_from,
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
from service.engine.schedule import DISCRETE_SOLVERS, NoiseSchedule

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
# diffusers' scheduler class, as a model ships it -> the solver of that name.
SHIPPED_SOLVERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "kdpm2",
    "LMSDiscreteScheduler": "lms",
    "DEISMultistepScheduler": "deis",
    "DPMSolverSinglestepScheduler": "dpm_singlestep",
    "LCMScheduler": "lcm",
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What a discrete family knows of the loaded model, for its `ModelInfo`.

    Attributes:
        family: e.g. "stable-diffusion-xl".
        sample_size: latent cells of the trained picture, a side or (height, width).
        cell: latent cells that one cell of the network's coarsest grid covers.
        channels: C of the latents.
        steps: N when neither the request nor the model names one.
        guidance: classifier-free guidance when neither names one.
    """

    family: str
    sample_size: int | tuple[int, int]
    cell: int
    channels: int
    steps: int
    guidance: float


class DiscreteFamily(ABC):
    """What families on a discrete variance-preserving schedule share; each adds its text encoders and its network.

    Args:
        parts: diffusers' pipeline, loaded.
        place: where and how it runs.

    Attributes:
        info: set by the family, with `_describe`.
        network: the denoiser with its guidance and its feature caching.
        upcasts: whether the VAE decodes in float32 where its config says that float16 overflows.
        follows_shipped: whether the default solver is the one of the model's own scheduler.

    Raises:
        EngineStartError: the scheduler is of another kind.
    """

    info: ModelInfo
    upcasts: ClassVar[bool] = True
    follows_shipped: ClassVar[bool] = True

    def __init__(self, parts: Any, place: Placement) -> None:
        config, name = parts.scheduler.config, type(parts.scheduler).__name__
        if "beta_schedule" not in config:
            raise EngineStartError(f"{name} has no table of betas: not a schedule this family is trained on")
        if config.prediction_type not in PREDICTION_TYPES:
            raise EngineStartError(
                f"prediction type {config.prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}"
            )
        self._schedule = NoiseSchedule(config)
        shipped = SHIPPED_SOLVERS.get(name) if self.follows_shipped else None
        self._shipped = shipped if shipped in self._schedule.solvers else DISCRETE_SOLVERS[0]
        self._vae = self._decoder(parts.vae, place)
        self._denoiser = parts.components.get("unet") or parts.components["transformer"]
        self.network = Network(
            self._denoiser, backbone_of(self._denoiser), place, self._inputs, parts.vae.config.latent_channels
        )
        place.prepare(place.shrink(self._denoiser).to(place.device).eval(), self._vae)
        self._adapters = Adapters(parts, place.shelf, taken=place.takes_loras)
        self._scale = int(parts.vae_scale_factor)
        self._place = place
        self._device = place.device
        self._dtype = place.dtype

    def initial_noise(self, seed: int, width: int, height: int) -> Tensor:
        """Return unit Gaussian noise float32 [C, h, w]."""
        return seeded_noise(
            seed, (self.info.latent_channels, height // self._scale, width // self._scale), self._device
        )

    def grid(self, solver: str, steps: int, width: int, height: int) -> Grid:
        """Return the time values and noise levels of an N-step run; the size plays no part."""
        return self._schedule.grid(solver, steps)

    def foreign(self, solver: str, steps: int, width: int, height: int, entry: float | None) -> ForeignRun:
        """Return a fresh scheduler of diffusers' for one attempt of a job; the size plays no part."""
        return self._schedule.foreign(solver, steps, entry)

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
        return clean_from(self.network.output(rows), self.info.prediction_type, rows)

    def unguided(self, rows: Rows) -> Tensor | None:
        """Return what the last `predict` would have been without guidance; None if no row had any."""
        output = self.network.unguided
        return None if output is None else clean_from(output, self.info.prediction_type, rows)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3] pictures of clean latents [B, C, h, w]."""
        ready = unscaled(latents, self._vae.config).to(self._vae.dtype)
        return to_pictures(self._place.decode(self._vae, ready, self._scale))

    @torch.inference_mode()
    def encode_picture(self, image: ImageArray) -> Tensor:
        """Return the clean latent of a picture uint8 [H, W, 3], float32 [C, h, w]."""
        encoded = self._place.encode(self._vae, from_picture(image, self._device))
        return scaled(encoded, self._vae.config)[0]

    def _decoder(self, vae: Any, place: Placement) -> Any:
        upcast = self.upcasts and place.dtype == torch.float16 and vae.config.get("force_upcast")
        return vae.to(place.device, torch.float32 if upcast else place.dtype).eval()

    @abstractmethod
    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        """Return the denoiser's arguments, see `network.MakeInputs`."""

    def _describe(self, folder: Path, model_id: str, traits: Traits) -> ModelInfo:
        wishes = {"default_solver": self._shipped, **own_defaults(folder, self._schedule.solvers)}
        sample = traits.sample_size
        sides = (sample, sample) if isinstance(sample, int) else sample
        side = wishes.get("image_size")
        height, width = (side, side) if side else (cells * self._scale for cells in sides)
        return ModelInfo(
            model_id=model_id,
            weights_digest=weights_digest(folder),
            family=traits.family,
            prediction_type=self._schedule.prediction_type,
            schedule=self._schedule.name,
            width=width,
            height=height,
            size_multiple=self._scale * traits.cell,
            max_size=int(wishes.get("max_size", 2 * max(width, height))),
            default_steps=int(wishes.get("default_steps", traits.steps)),
            default_guidance=float(wishes.get("default_guidance", traits.guidance)),
            solvers=preferred_first(self._schedule.solvers, wishes),
            latent_channels=traits.channels,
            dtype=self._place.number_type,
            device=str(self._place.device),
            threads=torch.get_num_threads(),
            loras=self._adapters.supported,
            architecture=architecture_of(self.network.backbone),
            feature_policies=(
                *policies_of(self.network.backbone, pairs=self.network.pairs),
                *backends_of(self._denoiser),
            ),
        )


def unscaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Turn clean latents [B, C, h, w] into what the VAE decodes, by its config's scale and, if any, mean and std."""
    raw: Tensor = latents / config["scaling_factor"]
    if (spread := _spread(latents, config)) is None:
        return raw
    deviation, centre = spread
    return raw * deviation + centre


def scaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Turn what the VAE encodes [B, C, h, w] into clean latents: the inverse of `unscaled`."""
    if (spread := _spread(latents, config)) is not None:
        deviation, centre = spread
        latents = (latents - centre) / deviation
    clean: Tensor = latents * config["scaling_factor"]
    return clean


def _spread(like: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return None
    return like.new_tensor(std).view(-1, 1, 1), like.new_tensor(mean).view(-1, 1, 1)
