"""The nouns the store shares with the service."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float16Array = NDArray[np.float16]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Signature:
    """Everything two generations must share before one may resume from the other.

    The number of steps and the seed are deliberately absent: states are matched by noise level, and a
    resumed run draws its own noise. Its digest names the partition of the index.
    """

    tenant: str
    model_id: str
    weights_digest: str
    embedder_digest: str
    width: int
    height: int
    prediction_type: str
    schedule: str
    guidance_band: str
    negative_prompt_hash: str
    loras: tuple[tuple[str, float], ...] = ()
    reference_id: str = ""
    safety_version: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all fields, 32 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class NoiseState:
    """A latent x_t in variance-preserving form at a known noise level.

    Attributes:
        latent: float16 [C, h, w].
        log_snr: ln(alpha^2 / sigma^2) of the level it was taken at.
        timestep: the model's own time value at that level (0..T-1 for discrete models).
        skip: share of the run's steps before it, in (0, 1).
        prediction: the source run's guided clean-latent prediction at this state, average-pooled,
            float16 [C, h', w'], or None. The divergence gate compares against it.
        depth: how many resumes lie between this state and pure noise (0 = from a full run).
    """

    latent: Float16Array
    log_snr: float
    timestep: float
    skip: float
    prediction: Float16Array | None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded final picture.

    Attributes:
        data: lossless PNG bytes.
        width: pixels.
        height: pixels.
    """

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One remembered generation.

    Attributes:
        entry_id: stable positive 63-bit id, never a position.
        signature: the partition it lives in.
        prompt: the prompt's text.
        prompt_hash: SHA-256 hex of prompt text.
        embedding: float32 [D], unit length.
        seed: the seed of the run.
        steps: denoising steps N of the run (part of the exact key, with guidance and scheduler).
        exact_key: hash of everything that makes two requests the same picture.
        created: Unix seconds.
        depth: lineage depth, 0 for a full run.
        gpu_seconds: device time its denoising took.
    """

    entry_id: int
    signature: Signature
    prompt: str
    prompt_hash: str
    embedding: Float32Array
    seed: int
    steps: int
    exact_key: str
    created: float
    depth: int
    gpu_seconds: float


class CacheUnavailable(Exception):
    """The cache cannot answer now (Redis away, timeout, broken data); the caller generates in full."""
