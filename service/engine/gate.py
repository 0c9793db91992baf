"""The divergence gate's measure: similarity proposes, the model disposes.

A text embedding cannot tell a rewording from a changed meaning; the denoiser can. At a stored state x_t the
prediction of the clean latent under the new prompt is computed anyway (it is the first resumed step). How far it lies
from the prediction the source run made at the very same state says how much the new prompt still wants to change at
a point where the picture can no longer change it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POOLED_SIDE = 8


def pool_prediction(denoised: Tensor) -> NDArray[np.float16]:
    """Shrink clean-latent predictions to the signature that is stored beside a noise state.

    Args:
        denoised: [C, h, w] or [B, C, h, w], any device and float type.

    Returns:
        float16 [..., C, h', w'] on the CPU with h' = min(8, h) and w' = min(8, w): the mean over equal cells
        (2x2 at 16x16 latents), so that a state's signature weighs little beside the state.
    """
    side = (min(POOLED_SIDE, denoised.shape[-2]), min(POOLED_SIDE, denoised.shape[-1]))
    pooled = torch.nn.functional.adaptive_avg_pool2d(denoised.float(), side)
    return pooled.cpu().numpy().astype(np.float16)


def influence(guided: Tensor, unguided: Tensor) -> float:
    """Return how much a prompt has to say about the picture at a noise state: what guidance changes in a prediction.

    Args:
        guided: clean-latent prediction [C, h, w].
        unguided: the same without guidance.

    Returns:
        Mean over the cells of `pool_prediction` of the RMS over channels.
    """
    return _size(pool_prediction(guided - unguided).astype(np.float64))


def divergence(new: NDArray[np.floating], source: NDArray[np.floating], influence: float | None = None) -> float:
    """Return how far a new prompt's prediction lies from the source run's, at the same noise state.

    Mean over cells of the RMS over channels of new - source, divided by the same of what guidance by the new prompt
    changes at all (`influence`): 0 means the same picture, 1 that the two prompts differ as much as the new one
    differs from none. Squares and high percentiles are ruled by a few strong cells, and the same difference means
    less where the prompt has much to say (`python -m benchmarks gate`). Without guidance the divisor is the contrast
    of the source's predicted picture: its size, less the mean of each channel. With guidance that one ranks all hits
    better, but worse those that diverge little, where tables are fitted. Either way the value is free of the latent's
    scale.

    Args:
        new: [C, h, w], pooled by `pool_prediction`.
        source: [C, h, w], pooled likewise.
        influence: of the new prompt; None without guidance.

    Returns:
        A value >= 0; NaN (which the gate refuses) if the shapes differ or a value is not finite; infinity if
        there is nothing to compare with and the predictions are not the same.
    """
    if new.shape != source.shape:
        return float("nan")
    a, b = new.astype(np.float64), source.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    difference = _size(a - b)
    if influence is None:
        influence = _size(b - b.mean(axis=(-2, -1), keepdims=True))
    if influence == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / influence


def _size(pooled: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(pooled**2, axis=0)).mean())


def passes(value: float, bound: float) -> bool:
    """Tell whether a divergence lies within its bound; NaN never does."""
    return value <= bound
