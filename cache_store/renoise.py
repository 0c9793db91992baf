"""States made again from a clean latent: x_t = alpha x_0 + sigma noise."""

import math

import numpy as np
from numpy.random import Philox, RandomState

from cache_store.codec import Codec
from cache_store.records import level_of
from cache_store.states import CorruptState, decode_final, decode_state, encode_final, encode_state, read_only
from cache_store.types import FinalState, Float16Array, Float32Array, NoiseState
from policies.matching.base import StateRef

_KEY_BITS = 2**64


def read_state(data: bytes, entry_id: int, ref: StateRef, *, trusted: bool = False) -> NoiseState:
    """Return the state `ref` of an entry from the file that holds it, whichever form it is kept in.

    Raises:
        CorruptState: it is not what `ref` says; see `decode_state`.
    """
    level = level_of(ref.log_snr)
    if ref.form == "final":
        state = renoised(decode_final(data, entry_id, trusted=trusted), entry_id, level)
    else:
        state = decode_state(data, entry_id, level, trusted=trusted)
    if ref.has_prediction and state.prediction is None:
        raise CorruptState("no prediction")
    return state


def held(entry_id: int, given: NoiseState | FinalState, ref: StateRef, codec: Codec) -> NoiseState:
    """Return the state `ref` as the store would give it back, had it been given `given` to keep for an entry.

    Raises:
        CorruptState: `given` does not hold that state.
        ValueError: it cannot be kept.
    """
    if isinstance(given, FinalState):
        return read_state(encode_final(entry_id, given, codec), entry_id, ref, trusted=True)
    data = encode_state(entry_id, given, codec)
    return read_state(data, entry_id, ref, trusted=True)


def unit_noise(entry_id: int, level: int, shape: tuple[int, ...]) -> Float32Array:
    """Return Gaussian noise that is a pure function of its arguments, here and anywhere.

    Counter-based, so that no draw depends on another; RandomState's normal numbers never change between releases of
    numpy, Generator's may.
    """
    source = RandomState(Philox(key=np.array([entry_id % _KEY_BITS, level % _KEY_BITS], np.uint64)))
    return source.standard_normal(shape).astype(np.float32)


def noised(latent: Float16Array, log_snr: float, noise: Float32Array) -> Float16Array:
    """Return the variance-preserving mixture of a clean latent and unit noise at a noise level."""
    alpha, sigma = _mixture(log_snr)
    mixed: Float16Array = (alpha * latent.astype(np.float32) + sigma * noise).astype(np.float16)
    return mixed


def noise_between(latent: Float16Array, state: NoiseState) -> Float16Array:
    """Return the noise that `noised` makes `state`'s latent of a clean latent with: what lies between the two.

    Of the shallowest state a run leaves it is very nearly the run's own noise. States made with it lie near the
    run's, and that one is the same but for rounding, so that the prediction stored for it can be compared with.
    """
    alpha, sigma = _mixture(state.log_snr)
    noise: Float16Array = ((state.latent.astype(np.float32) - alpha * latent.astype(np.float32)) / sigma).astype(
        np.float16
    )
    return noise


def _mixture(log_snr: float) -> tuple[float, float]:
    """Return alpha and sigma, whose squares add up to one."""
    ratio = math.exp(-abs(log_snr))
    larger, smaller = math.sqrt(1 / (1 + ratio)), math.sqrt(ratio / (1 + ratio))
    return (larger, smaller) if log_snr >= 0 else (smaller, larger)


def renoised(final: FinalState, entry_id: int, level: int) -> NoiseState:
    """Return the state of one of the levels that a clean latent serves; the same one every time.

    Raises:
        CorruptState: it does not serve that level, or the state is not finite.
    """
    served = {level_of(at.log_snr): at for at in final.levels}
    if level not in served:
        raise CorruptState("a level it does not serve")
    at = served[level]
    noise = unit_noise(entry_id, level, final.latent.shape) if final.noise is None else final.noise.astype(np.float32)
    latent = noised(final.latent, at.log_snr, noise)
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
