"""What the model families share: encoded prompts, noise, guidance, decoding, a model's own defaults."""

import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.engine.base import Condition, EngineStartError, ImageArray, ModelInfo, Rows
from service.engine.digest import weights_digest
from service.engine.levels import Grid, Level
from service.engine.schedule import DISCRETE_SOLVERS, NoiseSchedule

ENCODED_PROMPTS = 512
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
# diffusers' scheduler class, as a model ships it -> the solver of that name.
SHIPPED_SOLVERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
}


class EncodedPrompts:
    """The last so many encoded prompts: exact, so a repeated prompt costs nothing and changes nothing.

    Args:
        encode: makes a condition; called once per key while the key is remembered.
        limit: conditions to keep.
    """

    def __init__(self, encode: Callable[..., Condition], limit: int = ENCODED_PROMPTS) -> None:
        self._encode = encode
        self._limit = limit
        self._kept: OrderedDict[Hashable, Condition] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, *key: Hashable) -> Condition:
        """Return the condition of `key`, the arguments of `encode`."""
        if key not in self._kept:
            self._kept[key] = self._encode(*key)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def seeded_noise(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return unit Gaussian noise, float32, drawn on the CPU so that it is equal on all devices."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


def with_guidance(rows: Rows, network: Callable[[Tensor, Rows, Condition], Tensor]) -> Tensor:
    """Run the network once for all rows, with classifier-free guidance where a row asks for it.

    Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) as extra rows of the same forward:
    uncond + g (cond - uncond). As in diffusers, rows with g <= 1 need no unconditional row.

    Args:
        rows: the joint batch.
        network: given row numbers [M] (a row may come twice), the joint batch and the conditions [M, ...] of these
            rows, returns the network's float32 output [M, C, h, w].

    Returns:
        The guided output, float32 [B, C, h, w].
    """
    count = len(rows.latents)
    guided = (rows.guidance > 1.0).nonzero().flatten()
    order = torch.cat([torch.arange(count, device=guided.device), guided])
    conditions = {name: torch.cat([rows.conditions[name], rows.negatives[name][guided]]) for name in rows.conditions}
    output = network(order, rows, conditions)
    conditional, unconditional = output[:count], output[count:]
    scale = rows.guidance[guided].view(-1, 1, 1, 1)
    conditional[guided] = unconditional + scale * (conditional[guided] - unconditional)
    return conditional


def clean_from(output: Tensor, kind: str, rows: Rows) -> Tensor:
    """Turn a variance-preserving network's output into the clean latent x0, by what it was trained to predict.

    Args:
        output: float32 [B, C, h, w].
        kind: "epsilon", "v_prediction" or "sample".
        rows: the joint batch it was made for.
    """
    alpha, sigma = rows.alphas.view(-1, 1, 1, 1), rows.sigmas.view(-1, 1, 1, 1)
    if kind == "epsilon":
        return (rows.latents - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * rows.latents - sigma * output
    return output


def flow_latents(rows: Rows) -> Tensor:
    """Return rectified flow's x = (1 - s) x0 + s noise, float32 [B, C, h, w], of the variance-preserving latents."""
    return rows.latents / (rows.alphas + rows.sigmas).view(-1, 1, 1, 1)


def clean_from_flow(velocity: Tensor, rows: Rows) -> Tensor:
    """Turn a rectified-flow network's output (noise - x0) into x0 = x - s velocity.

    Liu et al. 2022, arXiv 2209.03003. Shapes as in `clean_from`.
    """
    share = (rows.sigmas / (rows.alphas + rows.sigmas)).view(-1, 1, 1, 1)
    return flow_latents(rows) - share * velocity


def to_pictures(images: Tensor) -> ImageArray:
    """Turn a decoder's output [B, 3, H, W] in [-1, 1] into uint8 [B, H, W, 3] on the CPU."""
    levels = ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    pictures: ImageArray = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pictures


def own_defaults(folder: Path, solvers: tuple[str, ...]) -> dict[str, Any]:
    """Read the optional `headstart.json` beside the model.

    Keys: image_size, max_size (pixels), default_steps, default_guidance, default_solver.

    Args:
        folder: of the model.
        solvers: names `default_solver` may have.

    Raises:
        EngineStartError: it is not JSON, or names a solver the family does not have.
    """
    path = folder / "headstart.json"
    if not path.is_file():
        return {}
    try:
        wishes: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise EngineStartError("headstart.json beside the model is not valid JSON") from error
    if wishes.get("default_solver", solvers[0]) not in solvers:
        raise EngineStartError(f"headstart.json: default_solver must be one of {', '.join(solvers)}")
    return wishes


def preferred_first(solvers: tuple[str, ...], wishes: dict[str, Any]) -> tuple[str, ...]:
    """Return the solver names with the model's own default first."""
    first = wishes.get("default_solver", solvers[0])
    return (first, *(name for name in solvers if name != first))


def decoder_of(vae: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a VAE ready to decode: in float32 where it would overflow in float16 and its config says so."""
    upcast = dtype == torch.float16 and vae.config.get("force_upcast")
    return vae.to(device, torch.float32 if upcast else dtype).eval()


def unscaled(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Turn clean latents [B, C, h, w] into what the VAE decodes, by its config's scale and, if any, mean and std."""
    scaled = latents / config["scaling_factor"]
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return scaled
    return scaled * latents.new_tensor(std).view(-1, 1, 1) + latents.new_tensor(mean).view(-1, 1, 1)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a discrete family knows of the loaded model, for its `ModelInfo`.

    Attributes:
        family: e.g. "sdxl".
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
        device: where the networks run.
        dtype: what they compute in; latents and solvers stay float32.

    Attributes:
        info: set by the family, with `_describe`.

    Raises:
        EngineStartError: the scheduler is of another kind.
    """

    info: ModelInfo

    def __init__(self, parts: Any, device: torch.device, dtype: torch.dtype) -> None:
        config, name = parts.scheduler.config, type(parts.scheduler).__name__
        if "beta_schedule" not in config:
            raise EngineStartError(f"{name} has no table of betas: not a schedule this family is trained on")
        if config.prediction_type not in PREDICTION_TYPES:
            raise EngineStartError(
                f"prediction type {config.prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}"
            )
        self._schedule = NoiseSchedule(config)
        self._shipped = SHIPPED_SOLVERS.get(name, DISCRETE_SOLVERS[0])
        self._vae = decoder_of(parts.vae, device, dtype)
        self._scale = int(parts.vae_scale_factor)
        self._device = device
        self._dtype = dtype

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
        ready = unscaled(latents, self._vae.config).to(self._vae.dtype)
        return to_pictures(self._vae.decode(ready, return_dict=False)[0])

    @abstractmethod
    def _network(self, order: Tensor, rows: Rows, conditions: Condition) -> Tensor:
        """Run the network as `with_guidance` wants it."""

    def _describe(self, folder: Path, model_id: str, traits: Traits) -> ModelInfo:
        wishes = {"default_solver": self._shipped, **own_defaults(folder, DISCRETE_SOLVERS)}
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
            solvers=preferred_first(DISCRETE_SOLVERS, wishes),
            latent_channels=traits.channels,
            dtype=str(self._dtype).removeprefix("torch."),
        )
