"""The nouns the store shares with the service."""

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.matching.base import StateRef

Scope = Literal["user", "tenant", "public"]
"""Who may resume from a generation: one user of a tenant, its tenant, or every tenant that shares."""

Float16Array = NDArray[np.float16]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Signature:
    """Everything two generations must share before one may resume from the other.

    The number of steps and the seed are deliberately absent: states are matched by noise level, and a
    resumed run draws its own noise. Its digest names the partition of the index. A LoRA is its name, the
    digest of its file and its scale; their order is canonical.

    Tenant and scope are part of it, so they part the index before anything is searched. `tenant` is always whose the
    generation is; the one partition of a model that all who share have in common leaves it out of its digest. `user`
    is a `user_digest`, and counts in the scope "user" alone.
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
    loras: tuple[tuple[str, str, float], ...] = ()
    reference_id: str = ""
    safety_version: str = ""
    dtype: str = "float32"
    scope: Scope = "tenant"
    user: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all fields that part generations, 32 hex digits."""
        fields = asdict(self)
        if self.scope == "public":
            del fields["tenant"]
        if self.scope != "user":
            del fields["user"]
        if self.scope == "tenant":  # as it was before there were scopes
            del fields["scope"]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def within(self, scope: Scope) -> "Signature":
        """Return the same in another scope."""
        return replace(self, scope=scope)


def text_digest(prompt: str) -> str:
    """Return what stands for a prompt where tenants are counted that asked for it: case and spacing play no part."""
    words = unicodedata.normalize("NFKC", prompt).casefold().split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:32]


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
        approximated: whether anything inside the network was reused (feature caching) before it, in its run or in
            those it descends from.
    """

    latent: Float16Array
    log_snr: float
    timestep: float
    skip: float
    prediction: Float16Array | None
    depth: int = 0
    approximated: bool = False


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A level that a clean latent serves: a `NoiseState` without its latent.

    Attributes:
        log_snr: see `NoiseState`.
        timestep: likewise.
        skip: likewise.
        prediction: likewise, of the run's own state at this level.
    """

    log_snr: float
    timestep: float
    skip: float
    prediction: Float16Array | None


@dataclass(frozen=True, slots=True)
class FinalState:
    """Where a run ended, from which its states are made again by noising: one object instead of one per level.

    Attributes:
        latent: the clean latent x_0 in the model's own scaled space, float16 [C, h, w].
        levels: those it serves, shallowest first.
        noise: unit noise that its states are made with, float16 [C, h, w]; None draws other noise for each of them.
        depth: how many resumes lie between it and pure noise.
        approximated: whether anything inside the network was reused (feature caching) on the way to it.
    """

    latent: Float16Array
    levels: tuple[NoiseLevel, ...]
    noise: Float16Array | None = None
    depth: int = 0
    approximated: bool = False


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded final picture.

    Attributes:
        data: lossless PNG bytes.
        width: pixels.
        height: pixels.
        safety_version: of the safety checker that has let it pass, empty = none has; of one to be stored, that of its
            entry's signature counts.
    """

    data: bytes
    width: int
    height: int
    safety_version: str = ""


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
        created: Unix seconds by the service's clock; what is stored is the time of the Redis host at the commit.
        depth: lineage depth, 0 for a full run.
        gpu_seconds: device time its denoising took.
        full_seconds: device time of a full run, estimated where it was resumed; 0 = `gpu_seconds`.
        user: `user_digest` of whom it was drawn for, empty = nobody named; serves deletion alone.
        generation: id of the generation it remembers, so that its record is found by the entry; empty = none.
        noise_seed: seed of the pure noise at the root of a resumed run's lineage; None = `seed` for a full run, not
            known for a resumed one.
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
    full_seconds: float = 0.0
    user: str = ""
    generation: str = ""
    noise_seed: int | None = None


@dataclass(frozen=True, slots=True)
class ExactHit:
    """The stored answer to the very same request.

    Attributes:
        entry_id: the entry it belongs to.
        prompt: the entry's prompt text.
        image: the stored picture.
        age: seconds since it was stored.
        seconds_left: to live; infinite without a lifetime.
        full_seconds: device time of a full run, as in `CacheEntry`; 0 in entries of before it was kept.
    """

    entry_id: int
    prompt: str
    image: StoredImage
    age: float = 0.0
    seconds_left: float = float("inf")
    full_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """What a person may be shown of an entry.

    Attributes:
        entry_id: stable positive 63-bit id.
        prompt: the prompt's text.
        created: Unix seconds, of the Redis host.
        seed: the seed of the run.
        steps: denoising steps N of the run.
        depth: lineage depth, 0 for a full run.
        states: the states it still holds, shallowest first.
        uses: how often it served a request, states and picture together.
        has_image: whether its picture is still there.
        expires: Unix seconds after which it is never returned, None without a lifetime.
        noise_seed: seed of the pure noise its picture began with, at the root of its lineage; None = not known.
        public: whether other tenants may come to resume from it. `uses` are its own tenant's then.
    """

    entry_id: int
    prompt: str
    created: float
    seed: int
    steps: int
    depth: int
    states: tuple[StateRef, ...]
    uses: int
    has_image: bool
    expires: float | None = None
    noise_seed: int | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters and gauges of a store; the last known ones while the catalogue is away.

    Attributes:
        available: whether the catalogue answers now.
        entries: remembered generations.
        states: noise states held.
        state_bytes: bytes of states in the object store.
        image_bytes: bytes of pictures in the object store.
        ram_bytes: bytes of states in this process's RAM tier.
        evictions: how many states or pictures went, by reason: the eviction policy's name,
            "image_budget", "corrupt", "cleared" or "expired".
        dropped_writes: writes this process gave up (queue full, cache away).
        pending_writes: writes waiting now.
        corrupt_states: states this process found missing or damaged.
        regret_requests: runs that a state evicted by this process would have shortened (see `cache_store.ghosts`).
        regret_seconds: device seconds it would have saved, at most.
        predictor_queries: how often the policy "parsimonious" has asked its predictor since it was chosen.
        partitions: signatures with at least one state.
        repairs: disagreements between catalogue, objects, memory and index that this process mended.
        index_lag_events: events of the catalogue that this process's index has not taken in yet.
        index_lag_seconds: how long ago it had taken in all there were; 0 when it has.
    """

    available: bool = False
    entries: int = 0
    states: int = 0
    state_bytes: int = 0
    image_bytes: int = 0
    ram_bytes: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    dropped_writes: int = 0
    pending_writes: int = 0
    corrupt_states: int = 0
    regret_requests: int = 0
    regret_seconds: float = 0.0
    predictor_queries: int = 0
    partitions: int = 0
    repairs: int = 0
    index_lag_events: int = 0
    index_lag_seconds: float = 0.0


class CacheUnavailable(Exception):
    """The cache cannot answer now (Redis away, timeout, broken data); the caller generates in full."""
