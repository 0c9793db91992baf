"""How arrays of a state are written: in half precision as they are, or in eight bits a number, channel by channel."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cache_store.types import Float16Array

Codec = Literal["fp16", "int8"]
CODECS: tuple[Codec, ...] = get_args(Codec)
_STEPS = 255
_GRID = ".grid"

Tensors = dict[str, NDArray[Any]]


def checked(array: Float16Array) -> Float16Array:
    """Return `array` contiguous; ValueError when it is not finite float16 [C, h, w]."""
    if array.dtype != np.float16 or array.ndim != 3 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError("not finite float16 [C, h, w]")
    return np.ascontiguousarray(array)


def pack(name: str, array: Float16Array, codec: Codec) -> Tensors:
    """Return the tensors that stand for `array` in a file.

    int8 lays 256 evenly spaced values over each channel, from its smallest number to its largest, so that a skewed
    channel wastes none of them and a constant one is kept exactly. No number moves by more than half a spacing, plus
    what rounding the result to half precision adds.

    Args:
        name: of the array in the file.
        array: finite float16 [C, h, w].
        codec: how to write it.

    Raises:
        ValueError: it is not finite float16 of rank 3.
    """
    array = checked(array)
    if codec == "fp16":
        return {name: array}
    # In float32 the range of a channel of half precision cannot overflow, nor its 255th part vanish.
    numbers = array.astype(np.float32)
    low = numbers.min(axis=(1, 2), keepdims=True)
    step = (numbers.max(axis=(1, 2), keepdims=True) - low) / _STEPS
    codes = np.rint((numbers - low) / np.where(step > 0, step, 1))
    grid = np.concatenate([low, step], axis=1)[:, :, 0]
    return {name: codes.clip(0, _STEPS).astype(np.uint8), name + _GRID: grid}


def unpack(name: str, tensors: Mapping[str, NDArray[Any]], codec: Codec) -> Float16Array:
    """Return the array that `pack` has written under `name`.

    Raises:
        KeyError: it is not there.
        ValueError: it is not what this codec writes.
    """
    if codec == "fp16":
        return checked(tensors[name])
    codes, grid = tensors[name], tensors[name + _GRID]
    if codes.dtype != np.uint8 or grid.dtype != np.float32 or grid.shape != (codes.shape[0], 2):
        raise ValueError("not int8 per channel")
    low, step = grid[:, :1, np.newaxis], grid[:, 1:, np.newaxis]
    return checked((low + step * codes).astype(np.float16))
