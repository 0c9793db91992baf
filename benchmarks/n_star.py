"""N*: the fewest steps, with the best solver, whose judge score is within 1 % of 50 steps.

On held-out prompts that no threshold was tuned on. The result decides the model's default N, and `resume` takes it
over from the saved report while it was measured on the same weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.resume_trials import MODEL
from training.lab import Lab, RunSettings, jobs
from training.scenes import Caption, caption, sample_scene

FULL, REFERENCE = 50, "ddim"
GRID = (5, 6, 8, 10, 12, 16, 20)
QUICK_GRID = (8, 12, 20)
TOLERANCE = 0.99
SWEPT = ("ddim", "dpmpp_2m")
TEST_SEED = 2003
SAVED = Path("benchmarks/reports/n_star.json")


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure the shipped default and return the report; `quick` takes fewer prompts and a coarser grid."""
    return measure(MODEL, prompts=24 if quick else 200, grid=QUICK_GRID if quick else GRID, quiet=quiet)


def measure(model: Path, *, prompts: int, grid: Sequence[int], quiet: bool) -> dict[str, Any]:
    """Measure one model.

    Args:
        model: its folder.
        prompts: how many held-out ones.
        grid: numbers of steps to try.
        quiet: no progress bars.
    """
    with Lab(str(model), quiet=quiet) as lab:
        sweep = sweep_steps(lab, held_out(prompts), grid)
        figures = sweep.report()
        return {
            "headline": {"n_star": sweep.best[1], "full_50": figures["full_50"]["value"]},
            **figures,
            "weights_digest": lab.info.weights_digest,
            "guidance": lab.info.default_guidance,
            "scores": sweep.plain(),
        }


def held_out(count: int) -> list[Caption]:
    """Captions of scenes that the model was not trained on; the same count gives the same captions."""
    rng = np.random.default_rng(TEST_SEED)
    return [caption(sample_scene(rng, split="heldout"), rng) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class StepSweep:
    """Judge scores per prompt for every (solver, N); equal prompts and seeds throughout."""

    scores: dict[tuple[str, int], Floats]
    reference: Floats

    @classmethod
    def saved(cls, lab: Lab) -> Self | None:
        """The full sweep of the saved report, if it was made with these very weights and this guidance."""
        if not SAVED.exists():
            return None
        report = json.loads(SAVED.read_text())
        key = (report["weights_digest"], report["guidance"], report["quick"])
        if key != (lab.info.weights_digest, lab.info.default_guidance, False):
            return None
        plain = {name: np.array(values) for name, values in report["scores"].items()}
        reference = plain.pop("reference")
        return cls({(name.split()[0], int(name.split()[1])): values for name, values in plain.items()}, reference)

    def plain(self) -> dict[str, list[float]]:
        """Scores per prompt as JSON holds them; `saved` reads them back."""
        rows = {f"{solver} {steps}": values for (solver, steps), values in self.scores.items()}
        return {name: np.round(v, 5).tolist() for name, v in [*rows.items(), ("reference", self.reference)]}

    @property
    def best(self) -> tuple[str, int]:
        """(solver, N*): smallest N from which on the solver stays within 1 % of 50 steps; (first, 50) if none."""
        good = [(steps, solver) for solver, steps in self.scores if self._holds(solver, steps)]
        if not good:
            return next(iter(self.scores))[0], FULL
        steps, solver = min(good)
        return solver, steps

    def _holds(self, solver: str, steps: int) -> bool:
        floor = TOLERANCE * self.reference.mean()
        return all(v.mean() >= floor for (s, n), v in self.scores.items() if s == solver and n >= steps)

    def best_at(self, steps: int) -> str:
        """The solver with the highest score at the grid's N closest to `steps`."""
        nearest = min({n for _, n in self.scores}, key=lambda n: abs(n - steps))
        return max((s for s, n in self.scores if n == nearest), key=lambda s: float(self.scores[s, nearest].mean()))

    def report(self) -> dict[str, Any]:
        """All figures with intervals: score, and ratio to 50 steps."""
        rows = [
            {
                "solver": solver,
                "steps": steps,
                "score": mean_interval(values),
                "ratio_to_50": ratio_interval(values, self.reference),
            }
            for (solver, steps), values in sorted(self.scores.items(), key=lambda item: (item[0][0], item[0][1]))
        ]
        solver, steps = self.best
        return {"n_star": steps, "solver": solver, "full_50": mean_interval(self.reference), "rows": rows}


def sweep_steps(lab: Lab, captions: Sequence[Caption], grid: Sequence[int] = GRID) -> StepSweep:
    """Score every solver at every N of the grid, and 50 DDIM steps as the reference."""
    seeds = list(range(50_000, 50_000 + len(captions)))

    def score(solver: str, steps: int) -> Floats:
        run = RunSettings(steps, solver, lab.info.default_guidance)
        specs = jobs(captions, seeds, run, lab.info, f"{solver}-{steps}")
        results = lab.run(specs, f"{solver}, {steps} steps")
        return np.asarray(lab.judge(results, captions).score, dtype=float)

    reference = score(REFERENCE, FULL)
    scores = {(solver, steps): score(solver, steps) for solver in SWEPT for steps in grid}
    return StepSweep(scores, reference)
