"""How entries and states are written down in the catalogue."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cache_store.types import (
    CacheEntry,
    EntrySummary,
    FinalState,
    Float32Array,
    NoiseState,
    StoredImage,
    text_digest,
)
from policies.eviction import Item
from policies.matching.base import StateRef


def level_of(log_snr: float) -> int:
    """Return the name of a noise level inside an entry: its log-SNR in thousandths."""
    return round(log_snr * 1000)


_FINAL_LOG_SNR = 1000.0
FINAL_LEVEL = level_of(_FINAL_LOG_SNR)
"""The name of a clean latent among an entry's levels; no noise level comes near it."""
_MOST = 2**63


def level_of_ref(ref: StateRef) -> int:
    """Return the name of the object that holds the state."""
    return FINAL_LEVEL if ref.form == "final" else level_of(ref.log_snr)


def level_of_state(state: NoiseState | FinalState) -> int:
    """Return the name of a state's object inside its entry."""
    return FINAL_LEVEL if isinstance(state, FinalState) else level_of(state.log_snr)


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The unchanging part of a state's catalogue record; that of a clean latent lists the levels it serves.

    Attributes:
        log_snr: noise level; of a clean latent one beyond all others.
        skip: share of the steps before it; of a clean latent that of the deepest level it serves.
        pred: whether a prediction is stored beside it, or beside any of its levels.
        nbytes: bytes of its object.
        created: logical time it was stored.
        member: its name in the order of last use.
        approximated: whether features were reused on the way to it; records of before feature caching lack it.
        levels: of a clean latent, (log-SNR, skip, whether a prediction is stored) of each level it serves.
        saved_seconds: device seconds that a resume from it saves; 0 in records of before it was noted.
        page: which need it answers (see `policies.eviction.Item`); 0 = its entry's own.
    """

    log_snr: float
    skip: float
    pred: bool
    nbytes: int
    created: int
    member: str
    approximated: bool = False
    levels: tuple[tuple[float, float, bool], ...] = ()
    saved_seconds: float = 0.0
    page: int = 0

    @classmethod
    def of(cls, entry_id: int, state: NoiseState | FinalState, nbytes: int, created: int) -> "StateRecord":
        """Describe `state` as stored at logical time `created`."""
        member = f"{created:016d}:{entry_id}:{level_of_state(state)}"
        if isinstance(state, FinalState):
            levels = tuple((at.log_snr, at.skip, at.prediction is not None) for at in state.levels)
            skip, predicted = max(skip for _, skip, _ in levels), any(pred for *_, pred in levels)
            return cls(_FINAL_LOG_SNR, skip, predicted, nbytes, created, member, state.approximated, levels)
        predicted = state.prediction is not None
        return cls(state.log_snr, state.skip, predicted, nbytes, created, member, state.approximated)

    @classmethod
    def parse(cls, raw: bytes) -> "StateRecord":
        """Read a record, whatever a later version adds to it; ValueError or TypeError when it is malformed."""
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise TypeError("a record is an object")
        levels = fields.pop("levels", ())
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        record = cls(**known, levels=tuple((float(snr), float(skip), bool(pred)) for snr, skip, pred in levels))
        record._check()
        return record

    def _check(self) -> None:
        numbers = (self.log_snr, self.skip, self.nbytes, self.created, self.saved_seconds, self.page)
        if not all(isinstance(number, int | float) and abs(number) < _MOST for number in numbers):
            raise ValueError("a number is none")
        if not isinstance(self.member, str):
            raise TypeError("a name is none")
        parse_member(self.member)

    def worth(self, full_seconds: float, page: int) -> "StateRecord":
        """Return it with what a resume saves of a run of `full_seconds`, and the need it answers."""
        return replace(self, saved_seconds=round(self.skip * full_seconds, 6), page=page)

    @property
    def level(self) -> int:
        """Its noise level's name."""
        return level_of(self.log_snr)

    @property
    def refs(self) -> tuple[StateRef, ...]:
        """What a matching policy sees of it: one state, or one for every level that a clean latent serves."""
        if not self.levels:
            return (StateRef(self.log_snr, self.skip, self.pred, self.approximated),)
        return tuple(StateRef(snr, skip, pred, self.approximated, "final") for snr, skip, pred in self.levels)

    def dump(self) -> str:
        """Return the record as JSON."""
        fields = asdict(self)
        if not self.approximated:  # a service of before feature caching may share the catalogue
            del fields["approximated"]
        for name in ("levels", "saved_seconds", "page"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, separators=(",", ":"))

    @property
    def item(self) -> Item:
        """What an eviction policy sees of it; where its seconds are unknown, a full run counts as one."""
        entry_id, _ = parse_member(self.member)
        return Item(self.skip, self.saved_seconds or self.skip, self.nbytes, self.page or entry_id)


def parse_member(member: str) -> tuple[int, int]:
    """Return (entry id, level) of a member of the eviction order."""
    _, entry_id, level = member.split(":")
    return int(entry_id), int(level)


def try_number(raw: bytes | str) -> int | None:
    """Return the whole number that `raw` writes, as the catalogue writes ids and levels; None for anything else."""
    try:
        number = int(raw)
    except ValueError:
        return None
    written = str(number)
    return number if raw in (written, written.encode()) and abs(number) < _MOST else None


def parse_states(fields: Mapping[bytes, bytes]) -> tuple[StateRecord, ...]:
    """Return the readable records in a states hash, shallowest first (its other fields are counters)."""
    records = [try_record(value) for name, value in fields.items() if b":" not in name]
    return tuple(sorted((record for record in records if record), key=lambda record: record.skip))


def try_record(raw: bytes) -> StateRecord | None:
    """Read a record; None when it is malformed."""
    try:
        return StateRecord.parse(raw)
    except (ValueError, TypeError):
        return None


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
        "full_seconds": repr(entry.full_seconds or entry.gpu_seconds),
        "uses": 0,
        "image_bytes": len(image.data),
        "image_width": image.width,
        "image_height": image.height,
        "image_sha256": hashlib.sha256(image.data).hexdigest(),
    }
    if entry.user:
        fields["user"] = entry.user
    if entry.signature.safety_version:
        fields["safety"] = entry.signature.safety_version
    if entry.signature.scope == "public":
        fields["text"] = text_digest(entry.prompt)
    if entry.depth and entry.noise_seed is not None:
        fields["noise_seed"] = str(entry.noise_seed)
    return [word for pair in fields.items() for word in pair]


SUMMARY_FIELDS = (
    "tenant",
    "prompt",
    "created",
    "seed",
    "steps",
    "depth",
    "uses",
    "image_bytes",
    "noise_seed",
    "text",
)


def parse_summary(
    entry_id: int, values: Sequence[Any], states: Mapping[bytes, bytes], ttl: float
) -> EntrySummary | None:
    """Return the summary from SUMMARY_FIELDS' values, or None when the entry is gone, or lacks some of them."""
    *needed, noise_seed, text = values
    if any(value is None for value in needed):
        return None
    _, prompt, created, seed, steps, depth, uses, image_bytes = needed
    return EntrySummary(
        entry_id=entry_id,
        prompt=prompt.decode("utf-8", "replace"),
        created=float(created),
        seed=int(seed),
        steps=int(steps),
        depth=int(depth),
        states=tuple(ref for record in parse_states(states) for ref in record.refs),
        uses=int(uses),
        has_image=int(image_bytes) > 0,
        expires=float(created) + ttl if ttl else None,
        noise_seed=int(seed) if int(depth) == 0 else None if noise_seed is None else int(noise_seed),
        public=text is not None,
    )


def parse_seconds(raw: bytes | None) -> float:
    """Return a stored duration; 0 where there is none, as in entries of before it was noted, or where it is none."""
    try:
        seconds = float(raw or 0.0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0.0 else 0.0


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
