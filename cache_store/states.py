"""Noise states as bytes, and back: safetensors that know whose they are."""

import hashlib
import json
import math
import re
from typing import Any

import numpy as np
import safetensors.numpy

from cache_store.records import level_of
from cache_store.types import Float16Array, NoiseState

SCHEMA = "1"
_BLANK = b"0" * 64
_CHECKSUM = re.compile(rb'("checksum":")([0-9a-f]{64})(")')


class CorruptState(Exception):
    """The bytes are not the state that was asked for; the message says why, without any content."""


def encode_state(entry_id: int, state: NoiseState) -> bytes:
    """Return `state` as one safetensors file.

    Its metadata names entry and noise level, and holds the SHA-256 of the whole file (taken with the
    checksum's own digits as zeros), so any changed byte shows.

    Raises:
        ValueError: an array is not finite float16 of rank 3, or a number is not finite.
    """
    tensors = {"latent": _checked(state.latent)}
    if state.prediction is not None:
        tensors["prediction"] = _checked(state.prediction)
    if not all(math.isfinite(number) for number in (state.log_snr, state.timestep, state.skip)):
        raise ValueError("a number is not finite")
    metadata = {
        "schema": SCHEMA,
        "entry_id": str(entry_id),
        "level": str(level_of(state.log_snr)),
        "log_snr": repr(float(state.log_snr)),
        "timestep": repr(float(state.timestep)),
        "skip": repr(float(state.skip)),
        "depth": str(state.depth),
        "approximated": str(int(state.approximated)),
        "checksum": _BLANK.decode(),
    }
    blank = safetensors.numpy.save(tensors, metadata)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return _CHECKSUM.sub(rb"\g<1>" + digest + rb"\g<3>", blank, count=1)


def decode_state(data: bytes, entry_id: int, level: int) -> NoiseState:
    """Return the state in `data`, which must be that of `entry_id` at `level`.

    Raises:
        CorruptState: a byte has changed, the schema is another, or it is another entry's or level's state.
    """
    metadata = _verified_metadata(data)
    try:
        if metadata["schema"] != SCHEMA:
            raise CorruptState("another schema version")
        if (int(metadata["entry_id"]), int(metadata["level"])) != (entry_id, level):
            raise CorruptState("the state of another entry or level")
        tensors = safetensors.numpy.load(data)
        prediction = tensors.get("prediction")
        return NoiseState(
            latent=read_only(_checked(tensors["latent"])),
            log_snr=float(metadata["log_snr"]),
            timestep=float(metadata["timestep"]),
            skip=float(metadata["skip"]),
            prediction=None if prediction is None else read_only(_checked(prediction)),
            depth=int(metadata["depth"]),
            approximated=metadata.get("approximated") == "1",  # absent from states of before feature caching
        )
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CorruptState(f"malformed: {type(error).__name__}") from error


def _verified_metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CorruptState("truncated")
    stored = _CHECKSUM.search(data, 8, 8 + length)
    if stored is None:
        raise CorruptState("no checksum")
    digest = hashlib.sha256(data[: stored.start(2)])
    digest.update(_BLANK)
    digest.update(data[stored.end(2) :])
    if digest.hexdigest().encode() != stored.group(2):
        raise CorruptState("wrong checksum")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState("unreadable header") from error
    return dict(metadata)


def _checked(array: Float16Array) -> Float16Array:
    if array.dtype != np.float16 or array.ndim != 3 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError("not finite float16 [C, h, w]")
    return np.ascontiguousarray(array)


def read_only(array: Float16Array) -> Float16Array:
    """Return a view of `array` that nobody can write through: states are shared."""
    view = array.view()
    view.flags.writeable = False
    return view
