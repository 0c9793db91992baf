"""Pairs of prompts, resumed at every level with the gate open, beside runs from scratch of equal compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.embedder import Embedder
from service.engine.base import JobResult
from training.lab import Lab, RunSettings, jobs, nearest_state, resume_point, resumed
from training.pairs import Pair

MODEL = Path("models/scenes-unet")


@dataclass(frozen=True, slots=True)
class Trial:
    """One resumed run beside the full run of the same prompt.

    Attributes:
        kind: how the prompts differ.
        skip: share of the steps skipped.
        similarity: cosine of the prompt embeddings.
        divergence: the gate's value at this level.
        early: the gate's value at the shallowest level.
        resumed: judge score of the resumed picture.
        full: judge score of the full run.
        neighbour: judge score of the source picture against the new prompt.
        scratch: judge score of a run of the same prompt from scratch with N - K steps.
        scratch_judged: the same with as many evaluations as the resumed run takes if it is judged early: one more,
            except at the level it is judged at.
    """

    kind: str
    skip: float
    similarity: float
    divergence: float
    early: float
    resumed: float
    full: float
    neighbour: float
    scratch: float
    scratch_judged: float


def run_trials(
    lab: Lab, embedder: Embedder, pairs: Sequence[Pair], run: RunSettings, levels: Sequence[float]
) -> list[Trial]:
    """Resume every pair at every level, shallowest first, with the gate open; one trial per pair and level."""
    capturing = RunSettings(run.steps, run.solver, run.guidance_scale, capture=tuple(levels))
    seeds = range(len(pairs))
    sources = lab.run(jobs([p.source for p in pairs], list(seeds), capturing, lab.info, "source"), "source runs")
    target_specs = jobs([p.target for p in pairs], [10_000 + s for s in seeds], run, lab.info, "full")
    fulls = lab.run(target_specs, "full runs")
    targets = [p.target for p in pairs]
    full, neighbour = lab.judge(fulls, targets).score, lab.judge(sources, targets).score
    similarity = prompt_similarity(embedder, pairs)
    trials: list[Trial] = []
    early: list[float] = []
    before: NDArray[np.float64] | None = None
    for level in levels:
        states = [nearest_state(source.captured, level) for source in sources]
        specs = [
            resumed(spec, [resume_point(state)], f"resume{level}")
            for spec, state in zip(target_specs, states, strict=True)
        ]
        results = lab.run(specs, f"resumed at {level:.0%}")
        scores = lab.judge(results, targets).score
        fewer = RunSettings(run.steps - results[0].skipped, run.solver, run.guidance_scale)
        short = lab.run(jobs(targets, [s.seed for s in specs], fewer, lab.info, f"scratch{level}"), "equal compute")
        scratch = lab.judge(short, targets).score
        early = early or [result.divergences[0] for result in results]
        figures = (early, scores, full, neighbour, scratch, scratch if before is None else before)
        before = scratch
        trials += [
            Trial(p.kind, skipped_share(r), float(s), r.divergences[0], *map(float, row))
            for p, r, s, *row in zip(pairs, results, similarity, *figures, strict=True)
        ]
    return trials


def skipped_share(result: JobResult) -> float:
    """K ÷ N of a finished job."""
    return result.skipped / result.steps


def prompt_similarity(embedder: Embedder, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Cosine similarity of the two prompts of each pair."""
    source = np.stack([embedder.embed_now(pair.source.text) for pair in pairs])
    target = np.stack([embedder.embed_now(pair.target.text) for pair in pairs])
    return np.asarray((source * target).sum(axis=1), dtype=float)
