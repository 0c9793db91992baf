"""STUB, to be replaced whole: the calibrated Pareto front, and the choice made on it."""

import json
from dataclasses import dataclass
from pathlib import Path

from policies.features.choice import FeatureChoice


@dataclass(frozen=True, slots=True)
class Front:
    """What every policy and strength came to on one model.

    Attributes:
        weights_digest: of the model it was measured on.
        schedule: noise schedule of that model.
        points: (solver, steps, policy, strength, quality, compute share).
    """

    weights_digest: str
    schedule: str
    points: tuple[tuple[str, int, str, float, float, float], ...]

    @classmethod
    def load(cls, path: Path) -> "Front":
        """Read a front; ValueError, KeyError or TypeError when it is malformed."""
        found = json.loads(path.read_text())
        points = tuple((str(a), int(b), str(c), float(d), float(e), float(f)) for a, b, c, d, e, f in found["points"])
        return cls(str(found["weights_digest"]), str(found["schedule"]), points)

    def choose(self, solver: str, steps: int, min_quality: float) -> FeatureChoice | None:
        """Return the cheapest choice that holds the quality bound, None if there is none."""
        safe = [point for point in self.points if point[:2] == (solver, steps) and point[4] >= min_quality]
        if not safe:
            return None
        best = min(safe, key=lambda point: point[5])
        return FeatureChoice(best[2], best[3])
