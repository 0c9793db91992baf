"""States made again from a clean latent: x_t = alpha x_0 + sigma noise."""

import math

import numpy as np
from numpy.random import Philox, RandomState

from cache_store.records import level_of
from cache_store.states import CorruptState, read_only
from cache_store.types import FinalState, Float16Array, Float32Array, NoiseState

_KEY_BITS = 2**64


def unit_noise(entry_id: int, level: int, shape: tuple[int, ...]) -> Float32Array:
    """Return Gaussian noise that is a pure function of its arguments, here and anywhere.

    Counter-based, so that no draw depends on another; RandomState's normal numbers never change between releases of
    numpy, Generator's may.
    """
    source = RandomState(Philox(key=np.array([entry_id % _KEY_BITS, level % _KEY_BITS], np.uint64)))
    return source.standard_normal(shape).astype(np.float32)


def noised(latent: Float16Array, log_snr: float, noise: Float32Array) -> Float16Array:
    """Return the variance-preserving mixture of a clean latent and unit noise at a noise level."""
    alpha_squared = 1 / (1 + math.exp(-log_snr)) if log_snr >= 0 else math.exp(log_snr) / (1 + math.exp(log_snr))
    mixed = math.sqrt(alpha_squared) * latent.astype(np.float32) + math.sqrt(1 - alpha_squared) * noise
    return mixed.astype(np.float16)


def renoised(final: FinalState, entry_id: int, level: int) -> NoiseState:
    """Return the state of one of the levels that a clean latent serves; the same one every time.

    Raises:
        CorruptState: it does not serve that level, or the state is not finite.
    """
    served = {level_of(at.log_snr): at for at in final.levels}
    if level not in served:
        raise CorruptState("a level it does not serve")
    at = served[level]
    latent = noised(final.latent, at.log_snr, unit_noise(entry_id, level, final.latent.shape))
    if not np.isfinite(latent).all():
        raise CorruptState("not finite")
    return NoiseState(
        latent=read_only(latent),
        log_snr=at.log_snr,
        timestep=at.timestep,
        skip=at.skip,
        prediction=at.prediction,
        depth=final.depth,
        approximated=final.approximated,
    )
