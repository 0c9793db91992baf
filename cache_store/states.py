"""Noise states and clean latents as bytes, and back: safetensors that know whose they are."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from cache_store.codec import Codec, Tensors, pack, unpack
from cache_store.records import FINAL_LEVEL, level_of
from cache_store.types import FinalState, Float16Array, NoiseLevel, NoiseState

SCHEMA = "1"
"""Of trajectory states in half precision: what every version of the store can read."""
SCHEMA_2 = "2"
"""Of everything else: its metadata names codec and form."""
_BLANK = b"0" * 64
_CHECKSUM = re.compile(rb'("checksum":")([0-9a-f]{64})(")')
_SCHEMA_OF: dict[Codec, str] = {"fp16": SCHEMA, "int8": SCHEMA_2}


class CorruptState(Exception):
    """The bytes are not the state that was asked for; the message says why, without any content."""


def encode_state(entry_id: int, state: NoiseState, codec: Codec = "fp16") -> bytes:
    """Return `state` as one safetensors file.

    Its metadata names entry and noise level, and holds the SHA-256 of the whole file (taken with the
    checksum's own digits as zeros), so any changed byte shows.

    Raises:
        ValueError: an array is not finite float16 of rank 3, or a number is not finite.
    """
    tensors = pack("latent", state.latent, codec)
    if state.prediction is not None:
        tensors |= pack("prediction", state.prediction, codec)
    _check_numbers(state.log_snr, state.timestep, state.skip)
    about = {
        "log_snr": repr(float(state.log_snr)),
        "timestep": repr(float(state.timestep)),
        "skip": repr(float(state.skip)),
    } | _lineage(state.depth, state.approximated)
    if codec != "fp16":
        about["codec"] = codec
    return _file(tensors, _SCHEMA_OF[codec], entry_id, level_of(state.log_snr), about)


def encode_final(entry_id: int, final: FinalState, codec: Codec = "fp16") -> bytes:
    """Return a clean latent, and the levels it serves with their predictions, as one safetensors file.

    Raises:
        ValueError: an array is not finite float16 of rank 3, the predictions differ in shape, a number is not
            finite, or there is no level.
    """
    if not final.levels:
        raise ValueError("a clean latent that serves no level")
    for level in final.levels:
        _check_numbers(level.log_snr, level.timestep, level.skip)
    tensors = pack("latent", final.latent, codec)
    if final.noise is not None:
        if final.noise.shape != final.latent.shape:
            raise ValueError("noise of another shape")
        tensors |= pack("noise", final.noise, codec)
    predictions = [level.prediction for level in final.levels if level.prediction is not None]
    if predictions:
        # One tensor, because every tensor costs a file a hundred bytes.
        tensors |= pack("predictions", np.concatenate(predictions), codec)
    rows = [[float(at.log_snr), float(at.timestep), float(at.skip), at.prediction is not None] for at in final.levels]
    about = {"form": "final", "codec": codec, "levels": json.dumps(rows)} | _lineage(final.depth, final.approximated)
    return _file(tensors, SCHEMA_2, entry_id, FINAL_LEVEL, about)


def decode_state(data: bytes, entry_id: int, level: int, *, trusted: bool = False) -> NoiseState:
    """Return the state in `data`, which must be that of `entry_id` at `level`, in whichever codec.

    Args:
        data: the file.
        entry_id: whose state it must be.
        level: at which noise level.
        trusted: the bytes were verified before, and never left this process.

    Raises:
        CorruptState: a byte has changed, the schema is another, or it is another entry's or level's state.
    """
    metadata = _metadata(data, entry_id, level, trusted=trusted)
    try:
        codec, tensors = _codec_of(metadata), safetensors.numpy.load(data)
        predicted = "prediction" in tensors
        return NoiseState(
            latent=read_only(unpack("latent", tensors, codec)),
            log_snr=float(metadata["log_snr"]),
            timestep=float(metadata["timestep"]),
            skip=float(metadata["skip"]),
            prediction=read_only(unpack("prediction", tensors, codec)) if predicted else None,
            depth=int(metadata["depth"]),
            approximated=metadata.get("approximated") == "1",  # absent from states of before feature caching
        )
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CorruptState(f"malformed: {type(error).__name__}") from error


def decode_final(data: bytes, entry_id: int, *, trusted: bool = False) -> FinalState:
    """Return the clean latent in `data`, which must be that of `entry_id`; see `decode_state`.

    Raises:
        CorruptState: a byte has changed, the schema is another, or it is something else.
    """
    metadata = _metadata(data, entry_id, FINAL_LEVEL, trusted=trusted)
    try:
        codec, tensors = _codec_of(metadata), safetensors.numpy.load(data)
        return FinalState(
            latent=read_only(unpack("latent", tensors, codec)),
            levels=_levels(json.loads(metadata["levels"]), tensors, codec),
            noise=read_only(unpack("noise", tensors, codec)) if "noise" in tensors else None,
            depth=int(metadata["depth"]),
            approximated=metadata["approximated"] == "1",
        )
    except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptState(f"malformed: {type(error).__name__}") from error


def verify(data: bytes) -> None:
    """Do nothing if the file is whole, as its checksum says; CorruptState otherwise."""
    _verified_metadata(data)


def _levels(rows: list[list[Any]], tensors: Tensors, codec: Codec) -> tuple[NoiseLevel, ...]:
    count = sum(bool(predicted) for *_, predicted in rows)
    stacked = read_only(unpack("predictions", tensors, codec)) if count else None
    parts = iter(np.split(stacked, count)) if stacked is not None else iter(())
    return tuple(
        NoiseLevel(float(log_snr), float(timestep), float(skip), next(parts) if predicted else None)
        for log_snr, timestep, skip, predicted in rows
    )


def _check_numbers(*numbers: float) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a number is not finite")


def _lineage(depth: int, approximated: bool) -> dict[str, str]:
    return {"depth": str(depth), "approximated": str(int(approximated))}


def _file(tensors: Tensors, schema: str, entry_id: int, level: int, about: Mapping[str, str]) -> bytes:
    """Return the safetensors file, with its own checksum in its metadata."""
    head = {"schema": schema, "entry_id": str(entry_id), "level": str(level)}
    blank = safetensors.numpy.save(tensors, head | dict(about) | {"checksum": _BLANK.decode()})
    digest = hashlib.sha256(blank).hexdigest().encode()
    return _CHECKSUM.sub(rb"\g<1>" + digest + rb"\g<3>", blank, count=1)


def _codec_of(metadata: Mapping[str, str]) -> Codec:
    """The codec a file names; those of schema 1 name none."""
    for codec, schema in _SCHEMA_OF.items():
        if metadata.get("codec", "fp16") == codec and metadata["schema"] in (schema, SCHEMA_2):
            return codec
    raise CorruptState("another schema version")


def _metadata(data: bytes, entry_id: int, level: int, *, trusted: bool) -> dict[str, str]:
    """Return a file's metadata, once sure that it is whole and the one that was asked for."""
    metadata = _header(data) if trusted else _verified_metadata(data)
    try:
        if metadata["schema"] not in (SCHEMA, SCHEMA_2):
            raise CorruptState("another schema version")
        if (int(metadata["entry_id"]), int(metadata["level"])) != (entry_id, level):
            raise CorruptState("the state of another entry or level")
    except (KeyError, ValueError) as error:
        raise CorruptState(f"malformed: {type(error).__name__}") from error
    return metadata


def _verified_metadata(data: bytes) -> dict[str, str]:
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
    return _header(data)


def _header(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState("unreadable header") from error
    return dict(metadata)


def read_only(array: Float16Array) -> Float16Array:
    """Return a view of `array` that nobody can write through: states are shared."""
    view = array.view()
    view.flags.writeable = False
    return view
