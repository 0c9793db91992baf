"""How entries and states are written down in the catalogue."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cache_store.types import CacheEntry, EntrySummary, Float32Array, NoiseState, StoredImage
from policies.eviction.base import EvictionPolicy, StateStats
from policies.matching.base import StateRef


def level_of(log_snr: float) -> int:
    """Return the name of a noise level inside an entry: its log-SNR in thousandths."""
    return round(log_snr * 1000)


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The unchanging part of a state's catalogue record.

    Attributes:
        log_snr: noise level.
        skip: share of the steps before it.
        pred: whether a prediction is stored beside it.
        nbytes: bytes of its object.
        created: logical time it was stored.
        member: its name in the eviction order; sorts by age among equal scores.
        approximated: whether features were reused on the way to it; records of before feature caching lack it.
    """

    log_snr: float
    skip: float
    pred: bool
    nbytes: int
    created: int
    member: str
    approximated: bool = False

    @classmethod
    def of(cls, entry_id: int, state: NoiseState, nbytes: int, created: int) -> "StateRecord":
        """Describe `state` as stored at logical time `created`."""
        member = f"{created:016d}:{entry_id}:{level_of(state.log_snr)}"
        predicted = state.prediction is not None
        return cls(state.log_snr, state.skip, predicted, nbytes, created, member, state.approximated)

    @classmethod
    def parse(cls, raw: bytes) -> "StateRecord":
        """Read a record; ValueError or TypeError when it is malformed."""
        return cls(**json.loads(raw))

    @property
    def level(self) -> int:
        """Its noise level's name."""
        return level_of(self.log_snr)

    @property
    def ref(self) -> StateRef:
        """What a matching policy sees of it."""
        return StateRef(self.log_snr, self.skip, self.pred, self.approximated)

    def dump(self) -> str:
        """Return the record as JSON."""
        fields = asdict(self)
        if not self.approximated:  # a service of before feature caching may share the catalogue
            del fields["approximated"]
        return json.dumps(fields, separators=(",", ":"))

    def score(self, policy: EvictionPolicy, *, uses: int, last_used: int, now: int) -> float:
        """Return what `policy` makes of it."""
        return policy.score(StateStats(uses, self.skip, self.nbytes, self.created, last_used, now))


def parse_member(member: bytes) -> tuple[int, int]:
    """Return (entry id, level) of a member of the eviction order."""
    _, entry_id, level = member.decode().split(":")
    return int(entry_id), int(level)


def parse_states(fields: Mapping[bytes, bytes]) -> tuple[StateRecord, ...]:
    """Return the records in a states hash, shallowest first (its other fields are counters)."""
    records = [StateRecord.parse(value) for name, value in fields.items() if b":" not in name]
    return tuple(sorted(records, key=lambda record: record.skip))


def entry_fields(entry: CacheEntry, image: StoredImage) -> list[str | bytes | int | float]:
    """Return an entry's hash as alternating names and values."""
    fields: dict[str, str | bytes | int | float] = {
        "partition": entry.signature.digest,
        "tenant": entry.signature.tenant,
        "prompt": entry.prompt,
        "prompt_hash": entry.prompt_hash,
        "embedding": np.ascontiguousarray(entry.embedding, np.float32).tobytes(),
        "seed": str(entry.seed),
        "steps": entry.steps,
        "exact_key": entry.exact_key,
        "created": repr(entry.created),
        "depth": entry.depth,
        "gpu_seconds": repr(entry.gpu_seconds),
        "uses": 0,
        "image_bytes": len(image.data),
        "image_width": image.width,
        "image_height": image.height,
        "image_sha256": hashlib.sha256(image.data).hexdigest(),
    }
    if entry.user:
        fields["user"] = entry.user
    return [word for pair in fields.items() for word in pair]


SUMMARY_FIELDS = ("tenant", "prompt", "created", "seed", "steps", "depth", "uses", "image_bytes")


def parse_summary(
    entry_id: int, values: Sequence[Any], states: Mapping[bytes, bytes], ttl: float
) -> EntrySummary | None:
    """Return the summary from SUMMARY_FIELDS' values, or None when the entry is gone."""
    if values[0] is None:
        return None
    _, prompt, created, seed, steps, depth, uses, image_bytes = values
    return EntrySummary(
        entry_id=entry_id,
        prompt=prompt.decode("utf-8", "replace"),
        created=float(created),
        seed=int(seed),
        steps=int(steps),
        depth=int(depth),
        states=tuple(record.ref for record in parse_states(states)),
        uses=int(uses),
        has_image=int(image_bytes) > 0,
        expires=float(created) + ttl if ttl else None,
    )


def parse_embedding(raw: bytes | None) -> Float32Array | None:
    """Return a stored embedding, or None when it is not a finite unit vector."""
    if not raw or len(raw) % 4:
        return None
    return checked_embedding(np.frombuffer(raw, np.float32))


def checked_embedding(embedding: Float32Array) -> Float32Array | None:
    """Return `embedding` as contiguous float32, or None when it is not a finite unit vector [D]."""
    vector = np.ascontiguousarray(embedding, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1.0) > 1e-2:
        return None
    return vector
