"""Pairs of prompts that the shipped table lets one resume from the other, and where such runs enter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.features.lab import BATCH, FeatureLab
from benchmarks.features.systems import System
from benchmarks.resume_trials import prompt_similarity
from policies.matching.table import ThresholdRow, ThresholdTable
from service.embedder import Embedder
from service.engine.base import CapturedState, JobResult, ResumePoint
from training.lab import nearest_state, resume_point
from training.pairs import Pair, sample_pairs
from training.scenes import Caption

DEEPEST = 0.31
CHUNK = 64
TARGET_SEEDS = 10_000


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Accepted pairs, and where in a session they came.

    Attributes:
        pairs: source and target prompts.
        seeds: of the sources; the targets' are these plus `TARGET_SEEDS`.
        looked_at: pairs that were tried.
    """

    pairs: list[Pair]
    seeds: list[int]
    looked_at: int

    @property
    def targets(self) -> list[Caption]:
        """What to draw."""
        return [pair.target for pair in self.pairs]

    @property
    def target_seeds(self) -> list[int]:
        """With which noise."""
        return [TARGET_SEEDS + seed for seed in self.seeds]


def row_of(table: ThresholdTable) -> ThresholdRow:
    """Return the deepest row that skips at most about 30 %."""
    return max((row for row in table.rows if row.skip <= DEEPEST), key=lambda row: row.skip)


def find_neighbours(lab: FeatureLab, table: ThresholdTable, star: System, wanted: int, session: int) -> Neighbours:
    """Run sessions at N* until enough pairs pass table and gate.

    Args:
        lab: the model.
        table: the shipped one.
        star: N* steps.
        wanted: pairs.
        session: seed of the pairs.
    """
    found: list[tuple[Pair, int]] = []
    embedder, row, looked_at = Embedder(), row_of(table), 0
    while len(found) < wanted:
        pairs = sample_pairs(session + looked_at, CHUNK)
        close = prompt_similarity(embedder, pairs) >= row.min_similarity
        tried = [(pair, looked_at + number) for number, pair in enumerate(pairs) if close[number]]
        found += _accepted(lab, table, row, star, tried)
        looked_at += CHUNK
    found = found[:wanted]
    return Neighbours([pair for pair, _ in found], [seed for _, seed in found], looked_at)


def _accepted(
    lab: FeatureLab, table: ThresholdTable, row: ThresholdRow, star: System, tried: Sequence[tuple[Pair, int]]
) -> list[tuple[Pair, int]]:
    judged_at = table.judged_at or row.skip
    sources = captured(lab, tried, star, (judged_at, row.skip))
    specs = []
    for (pair, seed), states in zip(tried, sources, strict=True):
        point = entry_of(pair, states, judged_at, row.skip, row.max_divergence)
        specs.append(replace(lab.spec(pair.target, TARGET_SEEDS + seed, star), resume=(point,)))
    _, results = lab.run(specs)
    kept = zip(tried, results, strict=True)
    return [one for one, result in kept if result.deeper is not None or one[0].kind == "retry"]


def captured(
    lab: FeatureLab, pairs: Sequence[tuple[Pair, int]], system: System, shares: tuple[float, ...]
) -> list[tuple[CapturedState, ...]]:
    """Return the states that runs of the source prompts leave at some shares of their steps."""
    specs = [replace(lab.spec(pair.source, seed, system), capture=shares) for pair, seed in pairs]
    results: list[JobResult] = []
    for start in range(0, len(specs), BATCH):
        results += lab.run(specs[start : start + BATCH])[1]
    return [result.captured for result in results]


def entry_of(
    pair: Pair, states: Sequence[CapturedState], judged_at: float, share: float, bound: float = float("inf")
) -> ResumePoint:
    """Enter as the service does: the same text at once, another where the table judges, and deeper if it may."""
    deepest = nearest_state(states, share)
    if pair.kind == "retry":
        return resume_point(deepest)
    return replace(resume_point(nearest_state(states, judged_at)), deeper=(resume_point(deepest, bound),))


def entries(
    lab: FeatureLab, near: Neighbours, systems: Sequence[System], judged_at: float | None
) -> list[Callable[[System], list[ResumePoint]]]:
    """Return, per pair, where each system with an entry begins.

    Args:
        lab: the model.
        near: the pairs.
        systems: of which those with an entry count.
        judged_at: share of the steps at which a run of another text is judged first, at the cost of a step; None
            enters at K at once.
    """
    states: dict[tuple[str, int], list[tuple[CapturedState, ...]]] = {}
    runs = {(system.solver, system.steps) for system in systems if system.entry}
    for solver, steps in sorted(runs):
        kinds = {one.entry for one in systems if one.entry and (one.solver, one.steps) == (solver, steps)}
        shares = {entry / steps for entry in kinds} | ({judged_at} if judged_at else set())
        sources = list(zip(near.pairs, near.seeds, strict=True))
        states[solver, steps] = captured(lab, sources, System(steps, solver), tuple(sorted(shares)))

    def entering(number: int) -> Callable[[System], list[ResumePoint]]:
        def at(system: System) -> list[ResumePoint]:
            own, share = states[system.solver, system.steps][number], system.entry / system.steps
            if judged_at is None:
                return [resume_point(nearest_state(own, share))]
            return [entry_of(near.pairs[number], own, judged_at, share)]

        return at

    return [entering(number) for number in range(len(near.pairs))]
