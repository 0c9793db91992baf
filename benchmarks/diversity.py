"""What does `cache.diversity` buy? Pictures of different seeds from one head start, beside full runs of those seeds.

Pairs of prompts as sessions produce them, not used for tuning, that the shipped table accepts at its deepest level
(the same text again, rewordings, edits). Every target is drawn with several seeds: in full (the ceiling), from its
neighbour's states at every level of the table with a share of the noise exchanged (0 is the floor: the seed plays no
part), and from scratch in as many steps, rounded, as the exchanged ones take: what the same compute buys without a
cache. Two measures of how far the pictures of one prompt lie apart, over all pairs of seeds: the RMS of the pixels'
differences, and the share of the scene's attributes that the prompt leaves open and the judge sees otherwise. Beside
them the judge's score for what the prompt asks for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.codec import INFINITE, Case, entry_of, find_cases, shipped_levels
from benchmarks.codec_forms import BASELINE, Costs, keep, point_of
from benchmarks.codec_sheet import Row, draw_sheet
from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.resume_trials import MODEL
from policies.matching.table import ThresholdRow, ThresholdTable
from service.engine.base import JobResult, JobSpec, ResumePoint
from training.judge import Judge
from training.lab import Lab, resumed
from training.scenes import Caption

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS = 4
FIRST_SEED = 50_000
SHEET_CASES = 2
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to draw every target with every seed; a value per case.

    Attributes:
        score: judge score, mean over the seeds.
        pixels: RMS of the pixels' differences as a share of their range, mean over pairs of seeds.
        unasked: share of the attributes left open that differ, mean over pairs of seeds; NaN where none is open.
        evaluations: of the network, mean over the seeds, as a share of a full run's.
        hits: how many of the runs were resumed.
        pictures: [case][seed].
    """

    score: Floats
    pixels: Floats
    unasked: Floats
    evaluations: Floats
    hits: int
    pictures: list[list[Picture]]


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer pairs, the table's middle level and three shares."""
    return measure(MODEL, 6 if quick else 24, quick=quick, quiet=quiet)


def measure(folder: Path, wanted: int, *, quick: bool, quiet: bool, sheet: Path | None = None) -> dict[str, Any]:
    """Measure one model.

    Args:
        folder: of the model.
        wanted: pairs to find.
        quick: see `run`.
        quiet: no progress bars.
        sheet: where to write a contact sheet; None = nowhere.
    """
    table = ThresholdTable.load(folder / "matching.json")
    levels = shipped_levels(table, quick=False)
    shares = SHARES[::2] if quick else SHARES
    judge = Judge.load()
    with Lab(str(folder), dtype="float32", quiet=quiet) as lab:
        cases, looked_at = find_cases(lab, table, levels[-1], wanted)
        full = draw(lab, judge, cases, [case.spec for case in cases], "in full")
        found = {row.skip: _level(lab, judge, cases, table, row, shares) for row in _used(levels, quick=quick)}
    if sheet is not None:
        arms = list(found.values())[len(found) // 2]
        draw_sheet(sheet, sheet_rows([case.pair.target.text for case in cases[:SHEET_CASES]], full, arms))
    report = _report(cases, full, found)
    return report | {"headline": headline(report), "looked_at": looked_at, "steps": cases[0].spec.steps}


def sheet_rows(texts: Sequence[str], full: Arm, arms: dict[str, Arm]) -> list[Row]:
    """Return a row of pictures per share at one level, then full runs: all seeds of the first few prompts."""
    shown = {f"{name} exchanged": arm for name, arm in arms.items() if name != "scratch"} | {"in full": full}
    return [
        Row(name, [(picture, text) for text, group in zip(texts, arm.pictures, strict=False) for picture in group])
        for name, arm in shown.items()
    ]


def _used(levels: Sequence[ThresholdRow], *, quick: bool) -> Sequence[ThresholdRow]:
    return levels[len(levels) // 2 : len(levels) // 2 + 1] if quick else levels


def _level(
    lab: Lab,
    judge: Judge,
    cases: Sequence[Case],
    table: ThresholdTable,
    row: ThresholdRow,
    shares: Sequence[float],
) -> dict[str, Arm]:
    """Every share at one level, and from scratch in as many steps as they take."""
    arms = {}
    entries = [_entry(case, table, row) for case in cases]
    for share in shares:
        specs = [
            replace(resumed(case.spec, [entry], f"{row.skip:.3f}"), diversity=share)
            for case, entry in zip(cases, entries, strict=True)
        ]
        arms[f"{share:g}"] = draw(lab, judge, cases, specs, f"{row.skip:.0%} skipped, {share:g} exchanged")
    steps = cases[0].spec.steps
    fewer = max(1, round(float(arms[f"{shares[-1]:g}"].evaluations.mean()) * steps))
    scratch = [replace(case.spec, steps=fewer) for case in cases]
    return arms | {"scratch": draw(lab, judge, cases, scratch, f"from scratch, {fewer} steps")}


def _entry(case: Case, table: ThresholdTable, row: ThresholdRow) -> ResumePoint:
    judged = case.pair.kind != "retry"
    states = keep(case.source, case.number + 1, BASELINE, Costs())
    points = {round(state.skip, 4): point_of(state, INFINITE, judged=judged) for state in states}
    return entry_of(case.pair, points, table, row)


def draw(lab: Lab, judge: Judge, cases: Sequence[Case], specs: Sequence[JobSpec], label: str) -> Arm:
    """Run every spec with every seed, and measure."""
    seeded = [
        replace(spec, job_id=f"{spec.job_id}-{seed}", seed=FIRST_SEED + case.number * SEEDS + seed)
        for case, spec in zip(cases, specs, strict=True)
        for seed in range(SEEDS)
    ]
    results = lab.run(seeded, label)
    targets = [case.pair.target for case in cases for _ in range(SEEDS)]
    score = lab.judge(results, targets).score.reshape(len(cases), SEEDS).mean(axis=1)
    groups = [results[first : first + SEEDS] for first in range(0, len(results), SEEDS)]
    pictures = [[result.image for result in group] for group in groups]
    return Arm(
        score=np.asarray(score, dtype=float),
        pixels=np.array([spread(group) for group in pictures]),
        unasked=np.array([_unasked(judge, group, c.pair.target) for group, c in zip(pictures, cases, strict=True)]),
        evaluations=np.array([np.mean([_cost(r, c) for r in group]) for group, c in zip(groups, cases, strict=True)]),
        hits=sum(result.resumed is not None for result in results),
        pictures=pictures,
    )


def _cost(result: JobResult, case: Case) -> float:
    return result.evaluations / case.spec.steps


def spread(pictures: Sequence[Picture]) -> float:
    """Return the RMS difference of pixels, as a share of their range, mean over pairs of pictures."""
    floats = [picture.astype(np.float64) / 255 for picture in pictures]
    return float(np.mean([np.sqrt(np.mean((one - other) ** 2)) for one, other in combinations(floats, 2)]))


def _unasked(judge: Judge, pictures: Sequence[Picture], wanted: Caption) -> float:
    seen = judge.attributes(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255)
    return differing(seen, sorted(wanted.scene.attributes().keys() - wanted.mentioned))


def differing(seen: Sequence[dict[str, str]], names: Sequence[str]) -> float:
    """Return the share of attributes that differ, mean over pairs of pictures; NaN without names."""
    if not names:
        return float("nan")
    pairs = combinations(seen, 2)
    return float(np.mean([[one[name] != other[name] for name in names] for one, other in pairs]))


def _report(cases: Sequence[Case], full: Arm, found: dict[float, dict[str, Arm]]) -> dict[str, Any]:
    retry = np.array([case.pair.kind == "retry" for case in cases])
    return {
        "pairs": len(cases),
        "seeds": SEEDS,
        "kinds": dict(Counter(case.pair.kind for case in cases)),
        "full": _figures(full, full, retry),
        "levels": [
            {"skip": skip, "arms": {name: _figures(arm, full, retry) for name, arm in arms.items()}}
            for skip, arms in found.items()
        ],
    }


def _figures(arm: Arm, full: Arm, retry: NDArray[np.bool_]) -> dict[str, Any]:
    opened = np.isfinite(full.unasked)
    return {
        "score": mean_interval(arm.score),
        "score_over_full": ratio_interval(arm.score, full.score),
        "pixels": mean_interval(arm.pixels),
        "pixels_over_full": ratio_interval(arm.pixels, full.pixels),
        "unasked": mean_interval(arm.unasked[opened]),
        "pixels_of_repeats": mean_interval(arm.pixels[retry]),
        "score_of_repeats": mean_interval(arm.score[retry]),
        "evaluations": float(arm.evaluations.mean()),
        "hits": arm.hits,
    }


def headline(report: dict[str, Any]) -> dict[str, float]:
    """Floor, half, all and the ceiling at the table's deepest level measured."""
    arms = report["levels"][-1]["arms"]
    half = "0.5" if "0.5" in arms else "1"
    return {
        "skip": report["levels"][-1]["skip"],
        "distance_floor": arms["0"]["pixels"]["value"],
        "distance_half": arms[half]["pixels"]["value"],
        "distance_all": arms["1"]["pixels"]["value"],
        "distance_full_runs": report["full"]["pixels"]["value"],
        "score_floor": arms["0"]["score"]["value"],
        "score_half": arms[half]["score"]["value"],
        "score_all": arms["1"]["score"]["value"],
        "score_full_runs": report["full"]["score"]["value"],
        "evaluations_exchanged": arms["1"]["evaluations"],
    }
