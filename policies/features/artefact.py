"""What is calibrated for a model as it is run: artefacts found in a folder, or the reason why there is none."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from policies.features import fits
from policies.features.artefact_file import (
    CALIBRATOR,
    METHODS,
    SUFFIX,
    Artefact,
    ArtefactError,
    ArtefactKey,
)
from policies.features.base import ChannelCorrection, RecipeError

__all__ = [
    "CALIBRATOR",
    "METHODS",
    "Artefact",
    "ArtefactError",
    "ArtefactKey",
    "CalibrationShelf",
    "Calibrations",
    "Conditions",
    "Uncalibrated",
]

_GUIDANCE_BAND = 0.25
_DIGITS = 16


class Uncalibrated(RecipeError):
    """A method was asked for that is not calibrated for the model as it is run."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a model is run, as far as calibration depends on it; the fields are those of `ArtefactKey`."""

    weights_digest: str
    schedule: str
    solver: str
    steps: int
    width: int
    height: int
    guidance: float
    dtype: str

    def refusals(self, key: ArtefactKey) -> tuple[str, ...]:
        """Return why what was calibrated under `key` does not hold here; () = it does.

        The guidance scale may lie up to a quarter above or below, but guided and unguided do not mix.
        """
        wanted = [(name, getattr(self, name), getattr(key, name)) for name in _EXACT]
        found = [f"{name} is {has!r}, not {want!r}" for name, want, has in wanted if has != want]
        if not same_guidance(self.guidance, key.guidance):
            found.append(f"guidance is {key.guidance}, not {self.guidance}")
        if key.calibrator != CALIBRATOR:
            found.append(f"calibrator is {key.calibrator}, not {CALIBRATOR}")
        return tuple(found)


def same_guidance(guidance: float, calibrated: float) -> bool:
    """Tell whether what was measured at one guidance scale holds at another: within a quarter, and guided or not."""
    if guidance <= 1.0 or calibrated <= 1.0:
        return guidance <= 1.0 and calibrated <= 1.0
    return abs(guidance - calibrated) <= _GUIDANCE_BAND * calibrated


_EXACT = ("weights_digest", "schedule", "solver", "steps", "width", "height", "dtype")


@dataclass(frozen=True, eq=False)
class Calibrations:
    """What is calibrated for one model, solver, N, size and guidance.

    Every reading method raises `Uncalibrated` when there is nothing to read.

    Attributes:
        found: artefacts that hold, by method.
        refused: for other methods with an artefact, why it does not hold.
        conditions: in words, for messages.
    """

    found: Mapping[str, Artefact] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    conditions: str = "this model"

    @classmethod
    def none(cls) -> "Calibrations":
        """Return the calibrations of a model that has none."""
        return cls()

    def reason(self, method: str) -> str | None:
        """Return why `method` is not calibrated, None if it is."""
        return None if method in self.found else self.refused.get(method, "there is no artefact")

    def notes(self, method: str) -> Mapping[str, float]:
        """Return the numbers noted about the fit of `method`."""
        return self._of(method).notes

    def teacache(self) -> tuple[float, ...]:
        """Return the polynomial's coefficients, highest power first."""
        return _floats(self._of("teacache"), "coefficients")

    def magcache(self) -> tuple[float, ...]:
        """Return the N magnitude ratios; the first is 1."""
        return _floats(self._of("magcache"), "ratios")

    def smoothcache(self, kind: str, alpha: float) -> tuple[bool, ...]:
        """Return which of the N steps to compute sub-layers of `kind` at, no skip costing more than `alpha`."""
        artefact = self._of("smoothcache")
        if kind not in artefact.arrays:
            raise Uncalibrated(f"smoothcache is not calibrated for {self.conditions}: no errors of kind {kind!r}")
        return _greedy(artefact, kind, alpha)

    def cachequant(self, groups: int, first_step: int, longest: int | None = None) -> tuple[bool, ...]:
        """Return the best steps to compute from K on.

        Args:
            groups: computes wanted; taken as near to it as the steps left and `longest` allow.
            first_step: K.
            longest: most steps from a compute up to the next.
        """
        artefact = self._of("cachequant")
        left = artefact.key.steps - first_step
        least = 1 if longest is None else -(-left // longest)
        return _groups(artefact, min(max(groups, least, 1), left), first_step, longest)

    def channel_corrections(self) -> Mapping[tuple[int, int], ChannelCorrection]:
        """Return the correction of each pair (step of the compute, step formed from it) that was calibrated."""
        artefact = self._of("cachequant")
        if "scale" not in artefact.arrays:
            raise Uncalibrated(f"cachequant is not calibrated for {self.conditions}: no channel corrections")
        return _Corrections(artefact)

    def _of(self, method: str) -> Artefact:
        if method not in self.found:
            raise Uncalibrated(f"{method} is not calibrated for {self.conditions}: {self.reason(method)}")
        return self.found[method]


def digest_of(folder: Path | None) -> str:
    """Return a digest of all artefacts of a calibration folder, "" without any.

    The front only chooses; what it chose is part of a picture's key by name.
    """
    counted = [] if folder is None else sorted(folder.glob(f"*{SUFFIX}"))
    digest = hashlib.sha256()
    for path in counted:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\0".encode())
    return digest.hexdigest()[:_DIGITS] if counted else ""


class CalibrationShelf:
    """The artefacts of a folder, listed and read once; a folder that does not exist holds none."""

    def __init__(self, folder: Path) -> None:
        self._artefacts: list[Artefact] = []
        self._broken: dict[str, str] = {}
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                self._artefacts.append(Artefact.load(path))
            except ArtefactError as error:
                self._broken.setdefault(path.name.partition("-")[0], str(error))
        self.of = lru_cache(maxsize=256)(self._of)
        """Returns what holds under the `Conditions` it is called with."""

    @property
    def broken(self) -> Mapping[str, str]:
        """What is wrong with the first file of each method that could not be read."""
        return self._broken

    def _of(self, wanted: Conditions) -> Calibrations:
        found: dict[str, Artefact] = {}
        refused: dict[str, tuple[str, ...]] = {}
        for artefact in self._artefacts:
            method, reasons = artefact.key.method, wanted.refusals(artefact.key)
            if not reasons:
                found.setdefault(method, artefact)
            elif method not in refused or len(reasons) < len(refused[method]):
                refused[method] = reasons  # of several files, the one that fits best explains most
        told = {method: "of its artefact " + ", ".join(reasons) for method, reasons in refused.items()}
        conditions = f"{wanted.solver} at {wanted.steps} steps"
        return Calibrations(found, {**self._broken, **told}, conditions)


@dataclass(frozen=True, eq=False)
class _Corrections(Mapping[tuple[int, int], ChannelCorrection]):
    """Corrections made as they are asked for: as numbers of Python's own, all at once would be large."""

    artefact: Artefact

    def __getitem__(self, pair: tuple[int, int]) -> ChannelCorrection:
        if not self._has(*pair):
            raise KeyError(pair)
        return _correction(self.artefact, *pair)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        steps = range(self.artefact.key.steps)
        return ((anchor, step) for anchor in steps for step in steps if self._has(anchor, step))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _has(self, anchor: int, step: int) -> bool:
        steps, lags = map(int, self.artefact.arrays["scale"].shape[:2])
        return 0 <= anchor < step < steps and step - anchor <= lags


@lru_cache(maxsize=1024)
def _correction(artefact: Artefact, anchor: int, step: int) -> ChannelCorrection:
    scale, offset = (artefact.arrays[name][anchor, step - anchor - 1] for name in ("scale", "offset"))
    return ChannelCorrection(tuple(map(float, scale)), tuple(map(float, offset)))


@lru_cache(maxsize=256)
def _greedy(artefact: Artefact, kind: str, alpha: float) -> tuple[bool, ...]:
    return fits.greedy_mask(artefact.arrays[kind], alpha)


@lru_cache(maxsize=1024)
def _groups(artefact: Artefact, groups: int, first_step: int, longest: int | None) -> tuple[bool, ...]:
    return fits.optimal_groups(artefact.arrays["distances"], groups, first_step, longest)


def _floats(artefact: Artefact, name: str) -> tuple[float, ...]:
    return tuple(map(float, artefact.arrays[name]))
