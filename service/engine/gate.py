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


def divergence(new: NDArray[np.floating], source: NDArray[np.floating]) -> float:
    """Return how far a new prompt's prediction lies from the source run's, at the same noise state.

    Mean over cells of the RMS over channels of new - source, divided by the contrast of the source's predicted
    picture: the same of source, less the mean of each channel. 0 means the same picture; two pictures that have
    nothing to do with each other are about sqrt(2) apart. Of the measures tried on pairs that a cache proposes
    (`python -m benchmarks gate`) this is the best at foretelling bad hits: squares and high percentiles are ruled by
    a few strong cells, and what guidance by the new prompt changes at all is a worse measure to compare with. It is
    free of the latent's scale and offset.

    Args:
        new: [C, h, w], pooled by `pool_prediction`.
        source: [C, h, w], pooled likewise.

    Returns:
        A value >= 0; NaN (which the gate refuses) if the shapes differ or a value is not finite; infinity if
        the source's prediction is flat and the new one is not the same.
    """
    if new.shape != source.shape:
        return float("nan")
    a, b = new.astype(np.float64), source.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    difference, contrast = _size(a - b), _size(b - b.mean(axis=(-2, -1), keepdims=True))
    if contrast == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / contrast


def _size(pooled: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(pooled**2, axis=0)).mean())


def passes(value: float, bound: float) -> bool:
    """Tell whether a divergence lies within its bound; NaN never does."""
    return value <= bound
