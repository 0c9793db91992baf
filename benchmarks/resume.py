"""The premise: does resuming beat running fewer steps at equal compute?

On prompts not used for profiling. First N* (benchmarks/n_star.py). Then, for pairs of prompts as sessions
produce them, resumed pictures at 10-60 % skipped steps, judged against the *new* prompt, beside full runs of
N* and 50 steps, runs from scratch at equal compute with the best solver, and the neighbour's picture unchanged.
The headline comes from as many pairs as the table accepts at 30 %, found among more sessions, so that a difference
of a percent or two can be told from none. Floor: the network's evaluations; a resume at skip s costs (1 - s) N* of
them, exactly what its baseline gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.inside import Inside, accepted, measure_inside
from benchmarks.n_star import FULL, QUICK_GRID, REFERENCE, StepSweep, held_out, sweep_steps
from benchmarks.resume_trials import MODEL, Trial, run_trials
from policies.matching.table import ThresholdTable
from service.calibrate.matching.trials import distinct_levels
from service.embedder import Embedder
from training.lab import Lab, RunSettings, jobs
from training.pairs import Pair, sample_pairs
from training.scenes import Caption

TEST_SEED = 2002
SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
BANDS = ((0.0, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 1.01))
BLOCK = 0.3


@dataclass(frozen=True, slots=True)
class Baselines:
    """Judge scores of the pairs' new prompts, one value per pair."""

    full_50: Floats
    full_n_star: Floats
    neighbour: Floats
    scratch: dict[float, Floats]


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer prompts and a coarser grid."""
    pair_count, wanted = (24, 16) if quick else (120, 300)
    table = ThresholdTable.load(MODEL / "matching.json")
    embedder = Embedder()
    with Lab(str(MODEL), quiet=quiet) as lab:
        sweep = _sweep(lab, quick=quick)
        solver, n_star = sweep.best
        pairs = sample_pairs(TEST_SEED, pair_count)
        skips = distinct_levels(SKIPS, n_star)
        trials = run_trials(lab, embedder, pairs, RunSettings(n_star, solver, lab.info.default_guidance), skips)
        base = _baselines(lab, sweep, pairs, trials, skips)
        inside = measure_inside(lab, embedder, table, sweep, BLOCK, wanted)
    captions = held_out(24 if quick else 96)
    scores = []
    for dtype in ("bfloat16", "float32"):
        with Lab(str(MODEL), dtype=dtype, quiet=quiet) as lab:
            scores.append(_star_scores(lab, captions, sweep))
    report = _report(sweep, trials, base, inside, table, len(pairs))
    return report | {"bfloat16_over_float32": ratio_interval(*scores)}


def _sweep(lab: Lab, *, quick: bool) -> StepSweep:
    """The step sweep of `python -m benchmarks n_star` if it was made with these weights, else one now."""
    saved = StepSweep.saved(lab)
    if saved is not None:
        return saved
    return sweep_steps(lab, held_out(24 if quick else 96), QUICK_GRID)


def _star_scores(lab: Lab, captions: Sequence[Caption], sweep: StepSweep) -> Floats:
    """N* steps in the lab's number type: measured in bfloat16, served on CPUs in float32."""
    solver, steps = sweep.best
    run_star = RunSettings(steps, solver, lab.info.default_guidance)
    results = lab.run(jobs(captions, list(range(len(captions))), run_star, lab.info, "dtype"), "number types")
    return np.asarray(lab.judge(results, captions).score, dtype=float)


def _baselines(
    lab: Lab, sweep: StepSweep, pairs: Sequence[Pair], trials: Sequence[Trial], skips: Sequence[float]
) -> Baselines:
    """From-scratch runs of the new prompts; N* steps and the neighbours' pictures come with the trials."""
    targets = [pair.target for pair in pairs]
    seeds = [10_000 + index for index in range(len(pairs))]

    def score(steps: int, solver: str) -> Floats:
        settings = RunSettings(steps, solver, lab.info.default_guidance)
        results = lab.run(jobs(targets, seeds, settings, lab.info, f"base{steps}"), f"from scratch, {steps} steps")
        return np.asarray(lab.judge(results, targets).score, dtype=float)

    solver, n_star = sweep.best

    def scratch(row: int, skip: float) -> Floats:
        """Equal compute with the best solver there; the trials hold it when that is N*'s own.

        One evaluation more for pairs that are judged early before they enter deeper.
        """
        rows = trials[row * len(pairs) : (row + 1) * len(pairs)]
        steps = max(1, n_star - round(skip * n_star))
        judged = np.array([row > 0 and trial.kind != "retry" for trial in rows])

        def at(count: int, held: Sequence[float]) -> Floats:
            return np.array(held) if sweep.best_at(count) == solver else score(count, sweep.best_at(count))

        straight = at(steps, [trial.scratch for trial in rows])
        return np.where(judged, at(steps + 1, [trial.scratch_judged for trial in rows]), straight)

    return Baselines(
        full_50=score(FULL, REFERENCE),
        full_n_star=np.array([trial.full for trial in trials[: len(pairs)]]),
        neighbour=np.array([trial.neighbour for trial in trials[: len(pairs)]]),
        scratch={skip: scratch(row, skip) for row, skip in enumerate(skips)},
    )


def _report(
    sweep: StepSweep,
    trials: Sequence[Trial],
    base: Baselines,
    inside: Inside,
    table: ThresholdTable,
    count: int,
) -> dict[str, Any]:
    by_skip = [trials[i * count : (i + 1) * count] for i in range(len(base.scratch))]
    curve = [_level(rows, base, table, skip) for skip, rows in zip(base.scratch, by_skip, strict=True)]
    scores = inside.scores
    return {
        "headline": {"n_star": sweep.best[1]} | {name: float(values.mean()) for name, values in scores.items()},
        "headline_pairs": inside.pairs,
        "headline_pairs_of_50": len(scores["scratch_35"]),
        "headline_sessions": inside.sessions,
        "headline_kinds": inside.kinds,
        "headline_evaluations": inside.evaluations,
        "inside": {name: mean_interval(values) for name, values in scores.items()},
        "resume_30pct_over_full_nstar": ratio_interval(scores["resume_30pct"], scores["full_nstar"]),
        "resume_30pct_over_scratch_70pct": ratio_interval(scores["resume_30pct"], scores["scratch_70pct"]),
        "resume_30pct_over_neighbour": ratio_interval(scores["resume_30pct"], scores["neighbour"]),
        "n_star": sweep.report(),
        "curve": curve,
        "table": [
            {"skip": r.skip, "max_divergence": r.max_divergence, "min_similarity": r.min_similarity}
            for r in table.rows
        ],
        "pairs": count,
    }


def _level(rows: Sequence[Trial], base: Baselines, table: ThresholdTable, skip: float) -> dict[str, Any]:
    """One skip level: everything ungated, inside the table, by similarity band and by kind of edit."""
    every = np.ones(len(rows), dtype=bool)
    inside = accepted(rows, table, skip)
    similarity = np.array([t.similarity for t in rows])
    kinds = np.array([t.kind for t in rows])
    return {
        "skip": rows[0].skip,
        "all": _figures(rows, base, skip, every),
        "inside_table": _figures(rows, base, skip, inside),
        "accepted_share": float(inside.mean()),
        "by_similarity": {
            f"{a:g}-{min(b, 1):g}": _figures(rows, base, skip, (similarity >= a) & (similarity < b)) for a, b in BANDS
        },
        "by_kind": {
            kind: _figures(rows, base, skip, kinds == kind)
            | {
                "accepted_share": float(inside[kinds == kind].mean()),
                "divergence": float(np.mean([t.divergence for t in rows if t.kind == kind])),
            }
            for kind in sorted(set(kinds.tolist()))
        },
    }


def _figures(
    rows: Sequence[Trial], base: Baselines, skip: float, pick: np.ndarray[Any, np.dtype[np.bool_]]
) -> dict[str, Any]:
    resumed_scores = np.array([t.resumed for t in rows])
    return {
        "resumed": mean_interval(resumed_scores[pick]),
        "full_nstar": mean_interval(base.full_n_star[pick]),
        "full_50": mean_interval(base.full_50[pick]),
        "scratch": mean_interval(base.scratch[skip][pick]),
        "neighbour": mean_interval(base.neighbour[pick]),
    }
