"""What smoothness is measured by: functions of tensors and pictures, whatever model they come from."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.base import ImageArray
from service.engine.levels import Level

Floats = NDArray[np.float64]
Mixing = Literal["slerp", "linear"]
MIXINGS: tuple[Mixing, ...] = ("slerp", "linear")
SHARES = tuple(step / 10 for step in range(11))
"""Of the second noise, in the eleven pictures between two noises."""
_PARALLEL = 1e-6


def mix(first: Tensor, second: Tensor, share: float, kind: Mixing) -> Tensor:
    """Return a noise between two.

    Linear mixing of independent noises has variance (1 - share)^2 + share^2, half of what the model expects in the
    middle; on the great circle between them (slerp) the variance stays.

    Args:
        first: any shape.
        second: the same shape.
        share: of the second, 0 to 1.
        kind: of mixing.
    """
    if kind == "linear":
        return (1 - share) * first + share * second
    cosine = (first * second).sum() / (first.norm() * second.norm())
    angle = math.acos(max(-1.0, min(1.0, float(cosine))))
    if math.sin(angle) < _PARALLEL:
        return mix(first, second, share, "linear")
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)


def neighbour_distances(pictures: NDArray[np.generic]) -> Floats:
    """Return the L2 distances between each picture and the next, over pixel values in [0, 1].

    Args:
        pictures: uint8, or floating and scaled already, [M, ...].

    Returns:
        float64 [M - 1].
    """
    values = _unit(pictures).reshape(len(pictures), -1)
    distances: Floats = np.linalg.norm(np.diff(values, axis=0), axis=1)
    return distances


def transition_deviation(pictures: NDArray[np.generic]) -> float:
    """Return one prompt's part in the interpolation standard deviation (ISTD), whose mean over prompts it is.

    Smooth Diffusion (Guo et al., CVPR 2024, arXiv 2312.04410): the standard deviation of the distances between
    neighbours among the pictures of evenly spaced noises. 0 is ideal: equal changes of the noise, equal changes of
    the picture. It grows with the number of pixels, so values compare at one picture size only.

    Args:
        pictures: [M, ...], as `neighbour_distances` takes them.
    """
    return float(neighbour_distances(pictures).std())


def variation(clean: Callable[[Tensor], Tensor], x0: Tensor, noise: Tensor, level: Level, towards: Tensor) -> Floats:
    """Return r = |grad_noise <sigma y, x0hat(alpha x0 + sigma noise)>| per row.

    The quantity Smooth Diffusion's step-wise variation regularisation keeps constant (arXiv 2312.04410, equation 7;
    sigma is its sqrt(1 - alpha_bar)): how far the predicted clean latent moves, in a random direction y, when the
    noise does. One backward pass per call. Rows must not depend on each other.

    Args:
        clean: the model's prediction x0hat [B, C, h, w] at noisy latents [B, C, h, w], differentiable.
        x0: clean latents, float32 [B, C, h, w].
        noise: unit noise, same shape.
        level: noise level, the same for all rows.
        towards: directions y, same shape; see `directions`.

    Returns:
        float64 [B].
    """
    with torch.inference_mode(False), torch.enable_grad():
        wanted = noise.clone().requires_grad_()
        predicted = clean(level.alpha * x0.clone() + level.sigma * wanted)
        total = (level.sigma * towards.clone() * predicted).sum()
        (gradient,) = torch.autograd.grad(total, wanted)
    norms: Floats = gradient.flatten(1).double().norm(dim=1).cpu().numpy()
    return norms


def directions(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random directions y ~ N(0, 1) / sqrt(C h w), of about unit length, for `shape` [B, C, h, w]."""
    drawn = torch.randn(shape, generator=generator)
    return drawn / math.sqrt(math.prod(shape[1:]))


def picture_distance(first: ImageArray, second: ImageArray) -> float:
    """Return the RMS difference of two pictures, over pixel values in [0, 1]."""
    return float(np.sqrt(np.mean((_unit(first) - _unit(second)) ** 2)))


def _unit(pictures: NDArray[np.generic]) -> Floats:
    values = np.asarray(pictures, dtype=np.float64)
    return values / 255 if pictures.dtype == np.uint8 else values
