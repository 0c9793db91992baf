"""The profiled bounds of one deployed model and embedder: how similar, how little divergence, how deep."""

import hashlib
import itertools
import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

FORMAT = "headstart-threshold-table"
VERSION = 3
REQUIRED_KEY = ("weights_digest", "embedder_digest", "schedule")
FORMS = ("trajectory", "final-noise", "final")
_SAME_LEVEL = 0.005
# Levels are usually a tenth of the run apart; rounding to whole steps moves a state by half a step.
_NEIGHBOURS = 0.15
_BEFORE_FIRST = 0.07


class TableError(ValueError):
    """A threshold table is malformed; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """Bounds for resuming at one stored level.

    Attributes:
        skip: share of the steps skipped, in (0, 1).
        min_similarity: smallest cosine of the prompt embeddings that may be tried; above 1 = never.
        max_divergence: largest divergence with which a resume may go on; infinity = no gate.
        acceptance: (similarity, chance) with ascending similarity: how often the gate lets a candidate of that
            similarity go on from here; linear in between, flat beyond. Empty = always.
    """

    skip: float
    min_similarity: float
    max_divergence: float
    acceptance: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.skip < 1.0:
            raise TableError(f"skip must lie in (0, 1), got {self.skip}")
        if not self.min_similarity >= -1.0:
            raise TableError(f"min_similarity must be at least -1, got {self.min_similarity}")
        if not self.max_divergence >= 0.0:
            raise TableError(f"max_divergence must not be negative, got {self.max_divergence}")
        if any(not 0.0 <= chance <= 1.0 for _, chance in self.acceptance):
            raise TableError("chances of acceptance must lie in [0, 1]")
        if any(right[0] <= left[0] for left, right in itertools.pairwise(self.acceptance)):
            raise TableError("similarities of acceptance must ascend")

    def chance(self, similarity: float) -> float:
        """Return how likely the gate is to let a candidate of this similarity go on from here, in [0, 1]."""
        if not self.acceptance:
            return 1.0
        above = bisect_left(self.acceptance, (similarity, 0.0))
        if above in (0, len(self.acceptance)):
            return self.acceptance[min(above, len(self.acceptance) - 1)][1]
        (left, low), (right, high) = self.acceptance[above - 1 : above + 1]
        return low + (high - low) * (similarity - left) / (right - left)


@dataclass(frozen=True)
class ThresholdTable:
    """One row per stored skip level, valid only for what its key names.

    Attributes:
        rows: sorted by skip, shallowest first, no level twice.
        key: what the table was profiled on: `weights_digest`, `embedder_digest`, `schedule`, and whatever
            else the profile depended on (e.g. `solver`).
        metadata: how it was made: quality bound, sample counts, intervals; never read by a policy.
        judged_at: level (share of the steps skipped) at which the divergence is measured, whatever level is resumed
            at; None = each level at itself.
        adequate_form: the most compact form of what is kept of a run that was measured to serve as well as its states
            themselves, within these bounds (`headstart calibrate matching --final`): one of FORMS.
        step_share: one step of the profiled runs as a share of them (1 / N): what an attempt costs that the gate
            refuses or sends deeper; 0 = not known.
    """

    rows: tuple[ThresholdRow, ...]
    key: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    judged_at: float | None = None
    adequate_form: str = "trajectory"
    step_share: float = 0.0

    def __post_init__(self) -> None:
        if self.judged_at is not None and not 0.0 < self.judged_at < 1.0:
            raise TableError(f"judged_at must lie in (0, 1), got {self.judged_at}")
        if self.adequate_form not in FORMS:
            raise TableError(f"adequate_form must be one of {', '.join(FORMS)}, got {self.adequate_form!r}")
        if not 0.0 <= self.step_share <= 1.0:
            raise TableError(f"step_share must lie in [0, 1], got {self.step_share}")
        missing = [name for name in REQUIRED_KEY if not self.key.get(name)]
        if missing:
            raise TableError(f"the key of a threshold table needs {', '.join(missing)}")
        object.__setattr__(self, "rows", sorted_rows(self.rows))
        object.__setattr__(self, "key", MappingProxyType(dict(self.key)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def matches(self, key: Mapping[str, str]) -> bool:
        """Return whether everything this table's key names is the same in `key` (which may name more)."""
        return all(key.get(name) == value for name, value in self.key.items())

    @property
    def digest(self) -> str:
        """SHA-256 over its canonical JSON, 32 hex digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @classmethod
    def load(cls, path: Path) -> "ThresholdTable":
        """Read a table from a JSON file.

        Raises:
            TableError: not a threshold table of this version.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"{path.name} is not a valid threshold table: {error}") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ThresholdTable":
        """Build a table from parsed JSON; a null `max_divergence` means no gate."""
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise TableError(f"expected format {FORMAT} version {VERSION}")
        rows = tuple(_row_from_json(row) for row in data["rows"])
        key = {str(name): str(value) for name, value in data["key"].items()}
        level = data.get("judged_at")
        judged_at = None if level is None else float(level)
        form = str(data.get("adequate_form", "trajectory"))
        return cls(rows, key, data.get("metadata", {}), judged_at, form, float(data.get("step_share", 0.0)))

    def to_json(self) -> dict[str, Any]:
        """Return the table as standard JSON (no infinities)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "key": dict(self.key),
            "judged_at": self.judged_at,
            "adequate_form": self.adequate_form,
            "step_share": self.step_share,
            "rows": [_row_to_json(row) for row in self.rows],
            "metadata": dict(self.metadata),
        }

    def save(self, path: Path) -> None:
        """Write the table as JSON, atomically."""
        text = json.dumps(self.to_json(), indent=2, sort_keys=True, allow_nan=False)
        draft = path.with_name(path.name + ".part")
        draft.write_text(text + "\n", "utf-8")
        draft.replace(path)


def sorted_rows(rows: tuple[ThresholdRow, ...]) -> tuple[ThresholdRow, ...]:
    """Return `rows` shallowest first; TableError when two rows are for the same level."""
    ordered = tuple(sorted(rows, key=lambda row: row.skip))
    for left, right in itertools.pairwise(ordered):
        if right.skip - left.skip <= _SAME_LEVEL:
            raise TableError(f"two rows for skip level {right.skip}")
    return ordered


def bounds_at(rows: tuple[ThresholdRow, ...], skip: float) -> ThresholdRow | None:
    """Return the bounds for a state at `skip`, or None where the rows say nothing.

    A run of another length has its states a little off the profiled levels; between two neighbouring rows the
    stricter bound of both holds. A level that was left out of the table (nothing satisfied the quality bound
    there) is not bridged: rows further apart than usual levels are no neighbours.
    """
    below = [row for row in rows if row.skip <= skip + _SAME_LEVEL][-1:]
    above = [row for row in rows if row.skip >= skip - _SAME_LEVEL][:1]
    if below and skip - below[0].skip <= _SAME_LEVEL:
        around = below
    elif above and not below:
        around = above if above[0].skip - skip <= _BEFORE_FIRST else []
    elif above and above[0].skip - below[0].skip <= _NEIGHBOURS:
        around = [*below, *above]
    else:
        around = []
    if not around:
        return None
    strictest = min(around, key=lambda row: row.max_divergence)
    return ThresholdRow(
        skip=skip,
        min_similarity=max(row.min_similarity for row in around),
        max_divergence=strictest.max_divergence,
        acceptance=strictest.acceptance,
    )


def _row_from_json(row: Mapping[str, Any]) -> ThresholdRow:
    bound = row["max_divergence"]
    acceptance = tuple((float(similarity), float(chance)) for similarity, chance in row.get("acceptance", ()))
    limit = math.inf if bound is None else float(bound)
    return ThresholdRow(float(row["skip"]), float(row["min_similarity"]), limit, acceptance)


def _row_to_json(row: ThresholdRow) -> dict[str, Any]:
    bound = None if math.isinf(row.max_divergence) else row.max_divergence
    shown = {"skip": row.skip, "min_similarity": row.min_similarity, "max_divergence": bound}
    return shown | ({"acceptance": [list(knot) for knot in row.acceptance]} if row.acceptance else {})
