"""The calibrated front: how fast and how good every method came out on one model, for "auto" to choose from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from policies.features.artefact import same_guidance
from policies.features.artefact_file import complaint
from policies.features.choice import FeatureChoice

FORMAT = "headstart-feature-front"
VERSION = 1
FILE_NAME = "front.json"
_WORTHWHILE = 1.05
_SAME_BUCKET = 0.1 + 1e-9
_COUNTS = ("width", "height", "steps")
_NUMBERS = ("guidance", "strength", "skip", "speedup", "quality", "lower95")


class FrontError(ValueError):
    """A front cannot be used; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class FrontKey:
    """What a front was measured on; the fields are those of `artefact.Conditions`."""

    weights_digest: str
    schedule: str
    width: int
    height: int
    guidance: float
    dtype: str

    def __post_init__(self) -> None:
        _check(asdict(self))

    def refusals(self, wanted: "FrontKey") -> tuple[str, ...]:
        """Return why what was measured under this key does not hold under another; () = it does.

        Of guidance scales those within a quarter hold, as for artefacts.
        """
        pairs = [(name, has, getattr(wanted, name)) for name, has in asdict(self).items() if name != "guidance"]
        found = [f"{name} is {has!r}, not {want!r}" for name, has, want in pairs if has != want]
        if not same_guidance(wanted.guidance, self.guidance):
            found.append(f"guidance is {self.guidance}, not {wanted.guidance}")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One method at one strength, measured.

    Attributes:
        solver: name of the solver.
        steps: N.
        policy: name of the method, or several joined by "+".
        strength: in (0, 1].
        skip: share K/N of the steps that the measured runs were resumed behind; 0 = full runs.
        speedup: wall-clock time without feature caching over that with it.
        quality: judge score with feature caching over that without.
        lower95: lower end of the 95 % interval of `quality`.
    """

    solver: str
    steps: int
    policy: str
    strength: float
    skip: float
    speedup: float
    quality: float
    lower95: float

    def __post_init__(self) -> None:
        _check(asdict(self))
        if not (0.0 < self.strength <= 1.0 and 0.0 <= self.skip < 1.0):
            raise FrontError(f"strength must lie in (0, 1] and skip in [0, 1), got {self.strength} and {self.skip}")
        if not (self.speedup > 0.0 and 0.0 <= self.lower95 <= self.quality):
            raise FrontError(f"speedup must be positive and 0 <= lower95 <= quality, got {asdict(self)}")


@dataclass(frozen=True)
class Front:
    """Every point that was measured on one model.

    Attributes:
        key: what it was measured on.
        points: in any order.
        metadata: how it was made: device, prompts, sample counts; never read.
    """

    key: FrontKey
    points: tuple[FrontPoint, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        places = {(p.solver, p.steps, p.policy, p.strength, p.skip) for p in self.points}
        if len(places) < len(self.points):
            raise FrontError("two points for the same method, strength and conditions")

    def choose(self, solver: str, steps: int, min_quality: float, skip: float = 0.0) -> FeatureChoice | None:
        """Return the fastest method that is good enough, None if none is or nothing was measured.

        Judged by the point estimate of the quality; what speeds up by no more than a twentieth is not worth it. A run
        that is to be resumed may yet run in full, so its choice has to be good enough for both.

        Args:
            solver: name of the solver.
            steps: N.
            min_quality: least ratio of judge scores.
            skip: K/N of the request; the nearest measured share within a tenth counts, and 0 only for full runs.
        """
        measured = [point for point in self.points if (point.solver, point.steps) == (solver, steps)]
        good = [point for point in measured if point.quality >= min_quality and point.speedup > _WORTHWHILE]
        fulls = {(point.policy, point.strength) for point in good if point.skip == 0.0}
        bucket = _bucket({point.skip for point in measured}, skip)
        able = [point for point in good if point.skip == bucket and (point.policy, point.strength) in fulls]
        best = max(able, key=lambda p: (p.speedup, p.quality, p.policy, p.strength), default=None)
        return None if best is None else FeatureChoice(best.policy, best.strength)

    @classmethod
    def load(cls, path: Path) -> "Front":
        """Read a front from a JSON file.

        Raises:
            FrontError: not a front of this version.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise FrontError(f"{path.name} is not a valid feature front: {reason}") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Front":
        """Build a front from parsed JSON."""
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise FrontError(f"expected format {FORMAT} version {VERSION}")
        points = tuple(FrontPoint(**point) for point in data["points"])
        return cls(FrontKey(**data["key"]), points, data.get("metadata", {}))

    def to_json(self) -> dict[str, Any]:
        """Return the front as standard JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "key": asdict(self.key),
            "points": [asdict(point) for point in self.points],
            "metadata": dict(self.metadata),
        }

    def save(self, path: Path) -> None:
        """Write the front as JSON, atomically."""
        text = json.dumps(self.to_json(), indent=2, sort_keys=True, allow_nan=False)
        draft = path.with_name(path.name + ".part")
        draft.write_text(text + "\n", "utf-8")
        draft.replace(path)


def _bucket(measured: set[float], skip: float) -> float | None:
    if skip <= 0.0:
        return 0.0
    near = [level for level in measured if level > 0.0 and abs(level - skip) <= _SAME_BUCKET]
    return min(near, key=lambda level: (abs(level - skip), level), default=None)


def _check(values: Mapping[str, Any]) -> None:
    wrong = complaint(values, _COUNTS, _NUMBERS)
    if wrong is not None:
        raise FrontError(wrong)
