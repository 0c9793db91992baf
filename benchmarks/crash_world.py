"""A world in which every state is known beforehand, so that a wrong one is recognised wherever it turns up.

What an entry holds is a pure function of its prompt: latents, predictions, picture and embedding all follow from the
number the prompt ends in. Whoever loads a state can therefore say whether it is the one the prompt calls for.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from cache_store import CacheEntry, NoiseState, Signature, StoredImage
from cache_store.types import Float16Array, Float32Array

SKIPS = (0.125, 0.25, 0.375, 0.5)
SHAPE = (4, 16, 16)
DIMENSION = 32
PICTURE_BYTES = 3000
# Stored states may be kept with fewer bits; those of another prompt are as far away as noise from noise.
CODEC_ERROR = 0.03
SIGNATURE = Signature(
    tenant="crash",
    model_id="world",
    weights_digest="w",
    embedder_digest="e",
    width=128,
    height=128,
    prediction_type="v_prediction",
    schedule="s",
    guidance_band="2",
    negative_prompt_hash="",
)


def entry(number: int) -> CacheEntry:
    """Return what is remembered as `number`."""
    text = prompt(number)
    return CacheEntry(
        entry_id=0,
        signature=SIGNATURE,
        prompt=text,
        prompt_hash=hashlib.sha256(text.encode()).hexdigest(),
        embedding=vector(number),
        seed=number,
        steps=8,
        exact_key=exact_key(number),
        created=1_700_000_000.0 + number,
        depth=0,
        gpu_seconds=1.0,
    )


def prompt(number: int) -> str:
    """Return the prompt of `number`."""
    return f"prompt {number}"


def number_of(text: str) -> int:
    """Return the number a prompt stands for."""
    return int(text.split()[-1])


def exact_key(number: int) -> str:
    """Return the exact key of `number`."""
    return f"exact-{number}"


def vector(number: int) -> Float32Array:
    """Return the embedding of `number`."""
    row = _noise(number, 0, (DIMENSION,))
    return (row / np.linalg.norm(row)).astype(np.float32)


def states(number: int, shape: tuple[int, ...] = SHAPE, skips: Iterable[float] = SKIPS) -> list[NoiseState]:
    """Return the states of `number`."""
    return [_state(number, skip, shape) for skip in skips]


def _state(number: int, skip: float, shape: tuple[int, ...]) -> NoiseState:
    latent = _noise(number, round(1000 * skip), shape).astype(np.float16)
    pooled = np.ascontiguousarray(latent[:, ::2, ::2])
    return NoiseState(latent, 10 * skip - 5, 900 - 800 * skip, skip, pooled)


def picture(number: int) -> StoredImage:
    """Return the picture of `number`."""
    data = np.random.default_rng([number, 9999]).bytes(PICTURE_BYTES)
    return StoredImage(data, SIGNATURE.width, SIGNATURE.height)


def is_right(number: int, state: NoiseState) -> bool:
    """Whether `state` is one that `number` calls for, at the level it says it has."""
    wanted = _state(number, state.skip, state.latent.shape)
    if abs(state.log_snr - wanted.log_snr) > 1e-9 or state.prediction is None or wanted.prediction is None:
        return False
    return _near(state.latent, wanted.latent) and _near(state.prediction, wanted.prediction)


def _near(one: Float16Array, other: Float16Array) -> bool:
    if one.shape != other.shape:
        return False
    wanted = other.astype(np.float32)
    return float(np.linalg.norm(one.astype(np.float32) - wanted)) <= CODEC_ERROR * float(np.linalg.norm(wanted))


def _noise(number: int, what: int, shape: tuple[int, ...]) -> Float32Array:
    return np.random.default_rng([number, what]).normal(size=shape).astype(np.float32)
