"""Feature caching: is it faster, and are the pictures still right?

On both shipped models, prompts no calibration has seen, the same prompts and seeds for every system, in joint batches
of 8 on one engine loop; every batch meets the systems in another order, so that ratios are those of one run. Beside
every method at four strengths: fewer steps with either solver, plain intervals at equal compute, resumed runs, and
everything together around N*. What a first look with few pictures does not rule out is measured again on others, and
only those figures make the headline. Floor: a network evaluation takes its multiply-adds; what feature caching
leaves of them is counted layer by layer, so that wall clock can be held against it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.features import report as reports
from benchmarks.features.lab import BATCH, FeatureLab, Tally
from benchmarks.features.neighbours import entries, find_neighbours, row_of
from benchmarks.features.systems import (
    System,
    default_runs,
    every_method,
    fewer_steps,
    libraries,
    resumed,
    short_runs,
)
from policies.matching.table import ThresholdTable
from training.loop import DIT_FOLDER, UNET_FOLDER
from training.scenes import Caption, caption, sample_scene

SCREENING_SEED, VALIDATION_SEED, LIBRARY_SEED = 2101, 2102, 2103
SCREENING_SESSION, VALIDATION_SESSION = 210_000, 220_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many pictures each part takes; multiples of the batch."""

    screening: int
    resumed: int
    short: int
    validation: int


WHOLE, QUICK = Sizes(16, 16, 16, 64), Sizes(8, 8, 8, 8)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure both shipped models and return the report; `quick` takes fewer pictures and every fourth system."""
    models = {"unet": UNET_FOLDER, "dit": DIT_FOLDER}
    found = {
        name: measure(folder, QUICK if quick else WHOLE, quick=quick, quiet=quiet) for name, folder in models.items()
    }
    joint = [part["best"]["joint"] for part in found.values()]
    fewer = [part["best"]["fewer_steps"] for part in found.values()]
    return {
        "headline": {
            "unet_speedup_at_99": _speed(found["unet"]["best"]["features"]),
            "dit_speedup_at_99": _speed(found["dit"]["best"]["features"]),
            "joint_speedup_at_99": min(map(_speed, joint)),
            "fewer_steps_speedup_at_99": min(map(_speed, fewer)),
        },
        "models": found,
    }


def _speed(row: dict[str, Any] | None) -> float:
    """A system's ratio to 50 steps; 1 where nothing keeps the score."""
    return 1.0 if row is None else float(row["speedup"]["value"])


def captions(seed: int, count: int) -> list[Caption]:
    """Captions of scenes that the model was not trained on, unlike those of any other benchmark or calibration."""
    rng = np.random.default_rng(seed)
    return [caption(sample_scene(rng, split="heldout"), rng) for _ in range(count)]


def measure(folder: Path, sizes: Sizes, *, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure one model.

    Args:
        folder: of the model.
        sizes: numbers of pictures.
        quick: leave out most systems.
        quiet: no progress bars.
    """
    lab = FeatureLab(folder, quiet=quiet)
    table = ThresholdTable.load(folder / "matching.json")
    architecture, full = lab.info.architecture, System()
    # The models ship with N*, by `python -m benchmarks n_star` and `n_star_dit`, as their default.
    star = System(lab.info.default_steps, lab.info.solvers[0])
    some = slice(None, None, 4 if quick else 1)

    methods, fewer = list(every_method(architecture))[some], list(fewer_steps())[some]
    screened = _drawn(lab, [full, star, *methods, *fewer], SCREENING_SEED, sizes.screening, "methods")

    near = find_neighbours(lab, table, star, max(sizes.resumed, sizes.short), SCREENING_SESSION)
    late = list(resumed(architecture))[some]
    rows = slice(0, sizes.resumed)
    points = entries(lab, near, late, judged_at=None)[rows]
    targets, seeds = near.targets[rows], near.target_seeds[rows]
    resuming = lab.compare([full, *late], targets, seeds, "resumed", points)

    entry = max(1, round(row_of(table).skip * star.steps))
    short = list(short_runs(architecture, star.steps, entry))[some]
    joint = _joined(lab, [full, star, *short], near, table, "short runs")

    final = reports.finalists(screened, full, methods), reports.finalists(screened, full, fewer)
    default = list(default_runs(architecture, star.steps))[some]
    wanted = list(dict.fromkeys([full, star, *final[0], *final[1], *default]))
    confirmed = _drawn(lab, wanted, VALIDATION_SEED, sizes.validation, "validation")
    fresh = find_neighbours(lab, table, star, sizes.validation, VALIDATION_SESSION)
    chosen = reports.finalists(joint, full, short)
    together = _joined(lab, [full, star, *chosen], fresh, table, "validation, joint")

    borrowed = [] if architecture == "unet" else list(libraries(architecture))[some]
    alone = _drawn(lab, [System(20, "dpmpp_2m"), *borrowed], LIBRARY_SEED, BATCH, "libraries", batch=1)

    middling = {one.features.policy: one for one in methods if one.features and one.features.strength == 0.5}
    speeds = {policy: _ratio(screened, system) for policy, system in middling.items()}
    return {
        "architecture": architecture,
        "n_star": star.steps,
        "weights_digest": lab.info.weights_digest,
        "guidance": lab.info.default_guidance,
        "screened": reports.table(screened, full),
        "resumed": reports.table(resuming, full),
        "multiplied": reports.multiplied(resuming, late, speeds),
        "short": reports.table(joint, full),
        "validated": reports.table(confirmed, full),
        "validated_joint": reports.table(together, full),
        "libraries": reports.table(alone, System(20, "dpmpp_2m")) if borrowed else [],
        "neighbours": {"screening": near.looked_at, "validation": fresh.looked_at},
        "best": {
            "features": reports.best(confirmed, full, final[0]),
            "fewer_steps": reports.best(confirmed, full, [*final[1], star]),
            "joint": reports.best(together, full, chosen),
        },
        "joint_over_n_star": _over(together, star, chosen),
    }


def _drawn(
    lab: FeatureLab, systems: list[System], seed: int, count: int, label: str, batch: int = BATCH
) -> dict[System, Tally]:
    seeds = list(range(seed * 100, seed * 100 + count))
    return lab.compare(systems, captions(seed, count), seeds, label, batch=batch)


def _joined(
    lab: FeatureLab, systems: list[System], near: Any, table: ThresholdTable, label: str
) -> dict[System, Tally]:
    every = list(dict.fromkeys([*(system.plain for system in systems), *systems]))
    points = entries(lab, near, every, table.judged_at)
    return lab.compare(systems, near.targets, near.target_seeds, label, points)


def _ratio(tallies: dict[System, Tally], system: System) -> float:
    return float(np.sum(tallies[System()].seconds) / np.sum(tallies[system].seconds))


def _over(tallies: dict[System, Tally], star: System, chosen: list[System]) -> dict[str, Any] | None:
    """The best joint system beside N* steps from scratch, on the same prompts."""
    winner = reports.best(tallies, System(), chosen)
    if winner is None:
        return None
    system = next(one for one in chosen if one.name == winner["system"])
    return {"system": system.name, **{k: v for k, v in reports.figures(system, tallies, star).items() if k in KEPT}}


KEPT = ("speedup", "denoise_speedup", "flops_ratio", "score_ratio")
