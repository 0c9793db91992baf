"""Another picture from the same state: part of the state's noise is exchanged for fresh noise."""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from service.engine.levels import Level

_WORD = np.dtype("<u4")


def exchanged(latent: Tensor, denoised: Tensor, level: Level, share: float, fresh: Tensor) -> Tensor:
    """Return a noise state with part of its noise exchanged, at the same level.

    x = alpha x0 + sigma (cos(a) old + sin(a) fresh) with a = share * pi / 2 and old = (latent - alpha x0) / sigma:
    variance-preserving, and `latent` itself at share 0. It is the step of DDIM's family (Song et al., ICLR 2021,
    eq. 12, with standard deviation sigma sin(a)) that ends at the level it begins at.

    Args:
        latent: the state, float32 [C, h, w].
        denoised: the model's prediction of the clean latent there, float32 [C, h, w].
        level: the state's; its sigma is not 0.
        share: of the noise to exchange, in [0, 1].
        fresh: unit noise [C, h, w], independent of the state's.
    """
    old = (latent - level.alpha * denoised) / level.sigma
    angle = share * math.pi / 2
    return level.alpha * denoised + level.sigma * (math.cos(angle) * old + math.sin(angle) * fresh)


def fresh_noise(seed: int, latent: Tensor) -> Tensor:
    """Return unit noise [C, h, w] that is a pure function of a seed and a state, equal on all devices.

    The state counts too because its own noise may stem from the same seed, and noise added to itself keeps no
    variance.

    Args:
        seed: of the request, at least 0.
        latent: the state, float32 [C, h, w].
    """
    digest = hashlib.sha256(latent.half().cpu().numpy().tobytes()).digest()
    mixed = np.random.SeedSequence([seed, *map(int, np.frombuffer(digest, _WORD))]).generate_state(1, np.uint64)
    generator = torch.Generator("cpu").manual_seed(int(mixed[0]) >> 1)
    return torch.randn(latent.shape, generator=generator).to(latent.device)
