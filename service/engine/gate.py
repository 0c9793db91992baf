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
QUANTILE = 0.9


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

    Per cell the RMS over channels of new - source, then the 90th percentile over cells, divided by RMS(source - mean
    of each source channel). A percentile, because a changed thing covers few cells, which a mean over the picture
    drowns, while the single largest cell is often noise (a change in fewer than a tenth of the cells is missed). The
    denominator is the contrast of the source's own predicted picture, so the value is free of the latent's scale and
    offset: 0 means the same picture, about 1.4 to 2 an unrelated picture of the same contrast.

    Args:
        new: [C, h, w], pooled by `pool_prediction`.
        source: [C, h, w], pooled likewise.

    Returns:
        A value >= 0; NaN (which the gate refuses) if the shapes differ or a value is not finite; infinity if
        the source is flat and the new prediction is not the same.
    """
    if new.shape != source.shape:
        return float("nan")
    a, b = new.astype(np.float64), source.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    difference = float(np.quantile(np.sqrt(np.mean((a - b) ** 2, axis=0)), QUANTILE))
    contrast = float(np.sqrt(np.mean((b - b.mean(axis=(-2, -1), keepdims=True)) ** 2)))
    if contrast == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / contrast


def passes(value: float, bound: float) -> bool:
    """Tell whether a divergence lies within its bound; NaN never does."""
    return value <= bound
