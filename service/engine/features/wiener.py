"""The filter of SeaCache: what a denoiser can know of a picture at a noise level."""

import torch
from torch import Tensor

BETA = 2.0
"""Natural pictures' power falls with the frequency to this power."""


def filtered(pictures: Tensor, noise_share: Tensor, beta: float = BETA) -> Tensor:
    """Return pictures behind a Wiener filter for clean + noise, each row's with its own noise level.

    SeaCache, arXiv 2602.18993: gain a S / (a^2 S + b^2) at frequency f, where S = |f|^-beta, a = 1 - b and b is the
    noise share. The gains are scaled to a mean of one, so that distances are comparable between noise levels.

    Args:
        pictures: [R, C, h, w], of any number type.
        noise_share: [R], from 0 (clean) to 1 (noise alone).
        beta: how fast power falls.

    Returns:
        float32 [R, C, h, w].
    """
    height, width = pictures.shape[-2:]
    kept = gains(height, width, noise_share.float(), beta)[:, None, :, : width // 2 + 1]
    behind: Tensor = torch.fft.irfft2(torch.fft.rfft2(pictures.float()) * kept, s=(height, width))
    return behind


def gains(height: int, width: int, noise_share: Tensor, beta: float = BETA) -> Tensor:
    """Return each row's gain per frequency, [R, h, w], of mean one; frequencies are ordered as in `fftfreq`."""
    rows, columns = (torch.fft.fftfreq(side, device=noise_share.device) for side in (height, width))
    # The mean, of frequency zero, would pass alone where there is nothing but noise: it counts as the lowest other.
    frequency = torch.hypot(rows[:, None], columns[None]).clamp_min(1 / max(height, width))
    noise = noise_share.view(-1, 1, 1)
    # The gain's formula, divided by a S: so that nothing is infinite at a = 0.
    passed = 1 / ((1 - noise) ** 2 + noise**2 * frequency**beta)
    return passed / passed.mean((1, 2), keepdim=True)
