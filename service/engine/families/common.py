"""What the model families share: encoded prompts, noise, guidance, decoding, a model's own defaults."""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.engine.base import Condition, EngineStartError, ImageArray, Rows

ENCODED_PROMPTS = 512


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
    noise = torch.randn(shape, generator=generator, dtype=torch.float32)
    if device.type == "cuda":
        return noise.pin_memory().to(device, non_blocking=True)
    return noise.to(device)


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


def from_picture(image: ImageArray, device: torch.device) -> Tensor:
    """Turn a picture uint8 [H, W, 3] into what a VAE encodes: float32 [1, 3, H, W] in [-1, 1]."""
    levels = torch.tensor(image, device=device).permute(2, 0, 1)[None]
    return levels.float() / 127.5 - 1


def own_defaults(folder: Path, solvers: tuple[str, ...]) -> dict[str, Any]:
    """Read the optional `headstart.json` beside the model.

    Keys: image_size, max_size (pixels), default_steps, default_guidance, default_solver; `judge` is not read here.

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
