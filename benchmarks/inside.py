"""Pairs inside the shipped table, and enough of them: the resumed picture beside everything it could have been."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.facts import Floats
from benchmarks.n_star import FULL, REFERENCE, StepSweep
from benchmarks.resume_trials import Trial, prompt_similarity
from policies.matching.table import ThresholdRow, ThresholdTable
from service.embedder import Embedder
from service.engine.base import JobResult, JobSpec, ResumePoint
from training.lab import Lab, RunSettings, jobs, nearest_state, resume_point, resumed
from training.pairs import Pair, sample_pairs

SESSION_SEED = 2004
CHUNK = 200
MOST_CHUNKS = 20
K, OF = 15, FULL
COSTLY = 100
"""Pairs for the runs around 50 steps, which cost five times the others."""


@dataclass(frozen=True, slots=True)
class Inside:
    """Scores per accepted pair, by headline name; those around 50 steps hold the first COSTLY pairs.

    Attributes:
        scores: judge score against the new prompt.
        evaluations: mean network evaluations of the resumed runs, as a share of N*'s.
        sessions: pairs looked at.
        kinds: accepted pairs by kind of edit.
    """

    scores: dict[str, Floats]
    sessions: int
    kinds: dict[str, int]
    evaluations: float

    @property
    def pairs(self) -> int:
        """Accepted pairs."""
        return len(self.scores["resume_30pct"])


@dataclass(frozen=True, slots=True)
class _Hit:
    """One accepted pair and what was run for it so far."""

    pair: Pair
    source: JobResult
    spec: JobSpec
    hit: JobResult


def nearest_row(table: ThresholdTable, skip: float) -> ThresholdRow | None:
    """The table's row at about `skip`, if it ships one."""
    rows = [row for row in table.rows if abs(row.skip - skip) <= 0.05]
    return min(rows, key=lambda row: abs(row.skip - skip)) if rows else None


def accepted(trials: Sequence[Trial], table: ThresholdTable, skip: float) -> NDArray[np.bool_]:
    """Which pairs the shipped table would resume at the level nearest to `skip`."""
    row = nearest_row(table, skip)
    if row is None:
        return np.zeros(len(trials), dtype=bool)
    return np.array([t.similarity >= row.min_similarity and t.early <= row.max_divergence for t in trials])


def measure_inside(
    lab: Lab, embedder: Embedder, table: ThresholdTable, sweep: StepSweep, skip: float, wanted: int
) -> Inside:
    """Run sessions until `wanted` pairs are inside the table at `skip`, then every baseline of these pairs.

    Raises:
        RuntimeError: the table ships no row at `skip`, or no pair is inside it.
    """
    row = nearest_row(table, skip)
    if row is None or table.judged_at is None:
        raise RuntimeError(f"the shipped table has no row at {skip:.0%} judged at an earlier level")
    solver, n_star = sweep.best
    star = RunSettings(n_star, solver, lab.info.default_guidance, capture=(table.judged_at, row.skip))
    hits: list[_Hit] = []
    sessions = 0
    while len(hits) < wanted and sessions < CHUNK * MOST_CHUNKS:
        pairs = sample_pairs(SESSION_SEED + sessions, CHUNK)
        sessions += CHUNK
        hits += _find(lab, embedder, pairs, star, row)
    if not hits:
        raise RuntimeError("no pair is inside the shipped table")
    hits = hits[:wanted]
    scores = _star_runs(lab, sweep, hits) | _runs_of_50(lab, sweep, hits[:COSTLY])
    evaluated = [hit.hit.evaluations / hit.hit.steps for hit in hits]
    kinds = dict(Counter(hit.pair.kind for hit in hits))
    return Inside(scores, sessions, kinds, float(np.mean(evaluated)))


def _find(lab: Lab, embedder: Embedder, pairs: Sequence[Pair], star: RunSettings, row: ThresholdRow) -> list[_Hit]:
    """The pairs whose prompts are similar enough and whose resumed run the gate lets pass."""
    close = [
        pair
        for pair, value in zip(pairs, prompt_similarity(embedder, pairs), strict=True)
        if value >= row.min_similarity
    ]
    seeds = range(len(close))
    sources = lab.run(jobs([p.source for p in close], list(seeds), star, lab.info, "in-source"), "source runs")
    plain = RunSettings(star.steps, star.solver, star.guidance_scale)
    specs = jobs([p.target for p in close], [10_000 + s for s in seeds], plain, lab.info, "in-target")
    points = [_entry(pair, source, row) for pair, source in zip(close, sources, strict=True)]
    entering = [resumed(spec, [point], "in") for spec, point in zip(specs, points, strict=True)]
    hits = lab.run(entering, "resumed, looking for pairs inside the table")
    found = [_Hit(*parts) for parts in zip(close, sources, specs, hits, strict=True)]
    return [one for one in found if one.hit.deeper is not None or one.pair.kind == "retry"]


def _entry(pair: Pair, source: JobResult, row: ThresholdRow) -> ResumePoint:
    """As the service enters: the same text at once, another where the table judges, and deeper if it may."""
    judge, state = source.captured[0], source.captured[-1]
    if pair.kind == "retry":
        return resume_point(state)
    return replace(resume_point(judge), deeper=(resume_point(state, row.max_divergence),))


def _star_runs(lab: Lab, sweep: StepSweep, hits: Sequence[_Hit]) -> dict[str, Floats]:
    solver, n_star = sweep.best
    targets = [hit.pair.target for hit in hits]
    return {
        "full_nstar": _scratch(lab, hits, n_star, solver),
        "resume_30pct": np.asarray(lab.judge([hit.hit for hit in hits], targets).score, dtype=float),
        "scratch_70pct": _equal_compute(lab, sweep, hits),
        "neighbour": np.asarray(lab.judge([hit.source for hit in hits], targets).score, dtype=float),
        "full_50": _scratch(lab, hits, FULL, REFERENCE),
    }


def _runs_of_50(lab: Lab, sweep: StepSweep, hits: Sequence[_Hit]) -> dict[str, Floats]:
    """K = 15 of 50, the paper's own middle rung, without the gate, beside 35 steps from scratch."""
    solver, guidance = REFERENCE, lab.info.default_guidance
    capturing = RunSettings(OF, solver, guidance, capture=(K / OF,))
    seeds = list(range(len(hits)))
    sources = lab.run(jobs([h.pair.source for h in hits], seeds, capturing, lab.info, "s50"), "50 steps, sources")
    plain = RunSettings(OF, solver, guidance)
    specs = jobs([h.pair.target for h in hits], [10_000 + s for s in seeds], plain, lab.info, "t50")
    states = [nearest_state(source.captured, K / OF) for source in sources]
    entering = [resumed(spec, [resume_point(state)], "k15") for spec, state in zip(specs, states, strict=True)]
    results = lab.run(entering, f"resumed at {K} of {OF}")
    targets = [hit.pair.target for hit in hits]
    return {
        "resume_k15_of_50": np.asarray(lab.judge(results, targets).score, dtype=float),
        "scratch_35": _scratch(lab, hits, OF - K, sweep.best_at(OF - K)),
    }


def _equal_compute(lab: Lab, sweep: StepSweep, hits: Sequence[_Hit]) -> Floats:
    """From scratch with as many evaluations as each resumed run took, the judging one included."""
    costs = np.array([hit.hit.evaluations for hit in hits])
    scores = np.zeros(len(hits))
    for cost in sorted(set(costs.tolist())):
        rows = np.flatnonzero(costs == cost).tolist()
        scores[rows] = _scratch(lab, [hits[row] for row in rows], cost, sweep.best_at(cost))
    return scores


def _scratch(lab: Lab, hits: Sequence[_Hit], steps: int, solver: str) -> Floats:
    """Scores of the new prompts' own runs from pure noise, with the seeds the resumed runs had."""
    run = RunSettings(steps, solver, lab.info.default_guidance)
    targets = [hit.pair.target for hit in hits]
    seeds = [hit.spec.seed for hit in hits]
    specs = jobs(targets, seeds, run, lab.info, f"in{solver}{steps}")
    results = lab.run(specs, f"from scratch, {steps} steps ({solver})")
    return np.asarray(lab.judge(results, targets).score, dtype=float)
