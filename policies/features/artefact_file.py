"""One calibrated method on disk: a safetensors file that says what it was calibrated on."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

FORMAT = "headstart-feature-artefact"
VERSION = 1
CALIBRATOR = 1
"""Raised whenever what the fits compute changes; what another version computed is refused."""
METHODS = ("teacache", "magcache", "smoothcache", "cachequant")
SUFFIX = ".safetensors"
_WHOLE = ("steps", "width", "height", "calibrator")


class ArtefactError(ValueError):
    """An artefact cannot be used; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class ArtefactKey:
    """What an artefact was calibrated on, and how.

    Attributes:
        method: one of `METHODS`.
        weights_digest: of the model.
        schedule: name of the noise schedule.
        solver: name of the solver.
        steps: N.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        guidance: the scale that was used; 1 or less = not guided.
        dtype: number type of the network, such as "float16".
        calibrator: version of the fits.
        prompts: digest of the prompts.
    """

    method: str
    weights_digest: str
    schedule: str
    solver: str
    steps: int
    width: int
    height: int
    guidance: float
    dtype: str
    calibrator: int
    prompts: str

    def __post_init__(self) -> None:
        wrong = complaint(dataclasses.asdict(self), _WHOLE, ("guidance",))
        if wrong is not None:
            raise ArtefactError(f"in the key, {wrong}")
        if self.method not in METHODS:
            raise ArtefactError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")


@dataclass(frozen=True, eq=False)
class Artefact:
    """What calibration found for one method.

    The arrays of each method, T being the steps:

    - teacache: `coefficients` [n], highest power first;
    - magcache: `ratios` [T];
    - smoothcache: one [lags, T] per kind of sub-layer, under the kind's name (`fits.skip_errors`);
    - cachequant: `distances` [T, T] (`fits.step_distances`), and for the correction of channels `scale` and `offset`
      [T, lags, C], of which entry [i, j - 1] forms step i + j from a compute at step i; both or neither.

    Attributes:
        key: what it was calibrated on.
        arrays: by name.
        notes: numbers about the fit, such as r_squared, samples or the branch that was cut at.
    """

    key: ArtefactKey
    arrays: Mapping[str, npt.NDArray[Any]]
    notes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", MappingProxyType(dict(self.arrays)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        wrong = complaint(self.notes, (), tuple(self.notes))
        if wrong is not None:
            raise ArtefactError(f"in the notes, {wrong}")
        for name, array in self.arrays.items():
            if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
                raise ArtefactError(f"array {name!r} must hold finite floating-point numbers, at least one")
        _check_arrays(self.key.method, self.key.steps, self.arrays)

    @property
    def file_name(self) -> str:
        """What the file is called: one that is made again for the same use replaces it."""
        key = self.key
        return f"{key.method}-{key.solver}-{key.steps}-{key.width}x{key.height}-g{key.guidance:g}-{key.dtype}{SUFFIX}"

    def save(self, folder: Path) -> Path:
        """Write the artefact into `folder`, atomically, and return its path."""
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "key": json.dumps(dataclasses.asdict(self.key), allow_nan=False),
            "notes": json.dumps(dict(self.notes), allow_nan=False),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        path = folder / self.file_name
        draft = path.with_name(path.name + ".part")
        draft.write_bytes(safetensors.numpy.save(arrays, metadata))
        draft.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> "Artefact":
        """Read an artefact.

        Raises:
            ArtefactError: whatever is wrong with the file, in one line.
        """
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
                    raise ArtefactError(f"expected format {FORMAT} version {VERSION}")
                key = ArtefactKey(**_parse(metadata["key"]))
                return cls(key, {name: file.get_tensor(name) for name in file.keys()}, _parse(metadata["notes"]))  # noqa: SIM118
        except (ValueError, KeyError, TypeError, OverflowError, OSError, safetensors.SafetensorError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ArtefactError(f"{path.name} is not a valid feature artefact: {reason}") from error


def complaint(values: Mapping[str, Any], whole: tuple[str, ...], numbers: tuple[str, ...]) -> str | None:
    """Return what is wrong with the first field that is not what it must be, None if all are.

    Args:
        values: by name; those named in neither of the others must be texts that are not empty.
        whole: must be integers of at least 1.
        numbers: must be finite.
    """
    for name, value in values.items():
        if name in whole:
            fine, wanted = type(value) is int and value >= 1, "an integer of at least 1"
        elif name in numbers:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fine, wanted = number and math.isfinite(value), "a finite number"
        else:
            fine, wanted = isinstance(value, str) and bool(value), "a text"
        if not fine:
            return f"{name} must be {wanted}, got {value!r}"
    return None


def _parse(text: str) -> dict[str, Any]:
    data = json.loads(text, parse_constant=_refuse)
    if not isinstance(data, dict):
        raise ArtefactError(f"expected an object, got {text[:40]}")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ArtefactError(f"{constant} is not a number")


def _check_arrays(method: str, steps: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if method == "teacache":
        fine = set(shapes) == {"coefficients"} and len(shapes["coefficients"]) == 1
    elif method == "magcache":
        fine = shapes == {"ratios": (steps,)} and bool((arrays["ratios"] > 0.0).all())
    elif method == "smoothcache":
        fine = bool(shapes) and all(len(shape) == 2 and shape[1] == steps for shape in shapes.values())
    else:
        fine = shapes.get("distances") == (steps, steps) and _corrections_fit(shapes, steps)
    if not fine:
        raise ArtefactError(f"these are not the arrays of {method} for {steps} steps: {shapes}")


def _corrections_fit(shapes: Mapping[str, tuple[int, ...]], steps: int) -> bool:
    if set(shapes) == {"distances"}:
        return True
    scale = shapes.get("scale", ())
    same = set(shapes) == {"distances", "scale", "offset"} and scale == shapes["offset"]
    return same and len(scale) == 3 and scale[0] == steps
