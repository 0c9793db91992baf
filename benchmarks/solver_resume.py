"""How should a multistep solver resume: start again at first order, or with the stored run's history?

DPM-Solver++ 2M looks at the prediction of the step before, UniPC at two and at the corrected latent. A stored state
holds neither. Here both are kept beside it, in half precision as a state is, and a run resumed with them is held
against one that starts again at first order: on its own state (PSNR against the uninterrupted run, and the judge)
and on a neighbour's (the judge; the history is then of the neighbour's prompt). Rows advance in lock step, so that
nothing but the solver's memory differs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.facts import Floats, mean_interval, ratio_interval, statistic_interval
from benchmarks.resume_trials import MODEL
from service.engine.base import Condition, Pipeline, Rows
from service.engine.job import capture_steps
from service.engine.levels import Grid
from service.engine.loading import load_pipeline
from service.engine.solvers import SOLVERS, Memory, Solver, plan_step, step
from training.judge import Judge
from training.pairs import Pair, sample_pairs
from training.scenes import Caption

SWEPT = ("dpmpp_2m", "unipc")
SHARES = (0.125, 0.25, 0.5)
PAIR_SEED = 2005
# Pairs per N: as many evaluations at each.
PAIRS = {8: 64, 20: 24, 50: 8}
QUICK_PAIRS = {8: 8, 20: 3}
BATCH = 32
HEADLINE = ("dpmpp_2m", 8)
# Rounding to 8 bits alone is this much mean squared error: pictures closer than that cannot be told apart.
EIGHT_BITS = 1 / 12
SAME_SCENE = ("retry", "wording")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store could hold of a joint run before a step: the state of every row, and its solver's memory."""

    latents: Tensor
    memories: list[Memory]


@dataclass(frozen=True, slots=True)
class Walk:
    """The rows of one joint run, all on one grid: the model, its solver and what it is told.

    Attributes:
        pipeline: the model.
        solver: of every row.
        grid: of every row.
        conditions: of the prompts.
        negatives: of the empty prompt.
        rounded: steps before which latents are rounded to half precision, as the engine does.
    """

    pipeline: Pipeline
    solver: Solver
    grid: Grid
    conditions: Condition
    negatives: Condition
    rounded: tuple[int, ...]

    def run(self, latents: Tensor, memories: list[Memory], first: int) -> tuple[Tensor, dict[int, Snapshot]]:
        """Advance all rows from step `first` to the end; return clean latents and a snapshot per rounded step."""
        kept: dict[int, Snapshot] = {}
        for index in range(first, len(self.grid.times)):
            if index in self.rounded:
                latents = latents.half().float()
                kept[index] = Snapshot(latents, [_stored(memory) for memory in memories])
            latents = self._advance(latents, memories, index)
        return latents, kept

    def _advance(self, latents: Tensor, memories: list[Memory], index: int) -> Tensor:
        now, after = self.grid.levels[index : index + 2]
        like = torch.ones(len(latents))
        rows = Rows(
            latents=latents,
            timesteps=like * self.grid.times[index],
            alphas=like * now.alpha,
            sigmas=like * now.sigma,
            conditions=self.conditions,
            negatives=self.negatives,
            guidance=like * self.pipeline.info.default_guidance,
        )
        denoised = self.pipeline.predict(rows)
        left = len(self.grid.times) - index
        updates = [plan_step(self.solver, memory, now, after, left) for memory in memories]
        stepped, corrected = step(latents, denoised, memories, updates, [None] * len(memories))
        for row, (memory, update) in enumerate(zip(memories, updates, strict=True)):
            memory.remember(self.solver, now, denoised[row], corrected[row], update.order)
        return stepped


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one (solver, N) gave: a value per pair and, where a K matters, per K.

    Attributes:
        full: judge score of the uninterrupted runs.
        errors: (memory, K) -> mean squared error of the pictures resumed from their own states.
        own: (memory, K) -> judge score of these.
        neighbour: (memory, K) -> judge score of the pictures resumed from the neighbours' states.
        same: which pairs describe the same scene.
    """

    full: Floats
    errors: dict[tuple[str, int], Floats]
    own: dict[tuple[str, int], Floats]
    neighbour: dict[tuple[str, int], Floats]
    same: np.ndarray[Any, np.dtype[np.bool_]]

    def pooled(self, values: dict[tuple[str, int], Floats], memory: str) -> Floats:
        """Mean over K, per pair."""
        rows = [row for (kind, _), row in values.items() if kind == memory]
        return np.asarray(np.mean(rows, axis=0), dtype=float)

    def figures(self) -> dict[str, Any]:
        """Every figure with its interval: pooled over K, and per K."""
        own, near = ({m: self.pooled(v, m) for m in MEMORIES} for v in (self.own, self.neighbour))
        return {
            "full_score": mean_interval(self.full),
            "history_over_restart": ratio_interval(own["history"], own["restart"]),
            "history_over_restart_neighbour": ratio_interval(near["history"], near["restart"]),
            "history_over_restart_same_scene": ratio_interval(near["history"][self.same], near["restart"][self.same]),
            "levels": [self._level(k) for k in sorted({k for _, k in self.own})],
        } | {f"{memory}_neighbour_score": mean_interval(near[memory]) for memory in MEMORIES}

    def _level(self, k: int) -> dict[str, Any]:
        rows: dict[str, Any] = {"skipped": k}
        for memory in MEMORIES:
            rows |= {
                f"{memory}_psnr": psnr(self.errors[memory, k]),
                f"{memory}_score": mean_interval(self.own[memory, k]),
                f"{memory}_neighbour_score": mean_interval(self.neighbour[memory, k]),
            }
        return rows


MEMORIES = ("restart", "history")


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer pairs."""
    torch.set_grad_enabled(False)
    pipeline, judge = load_pipeline(str(MODEL), "cpu", "bfloat16"), Judge.load()
    outcomes = {}
    for steps, count in (QUICK_PAIRS if quick else PAIRS).items():
        for solver in SWEPT:
            outcomes[solver, steps] = measure(pipeline, judge, sample_pairs(PAIR_SEED, count), solver, steps)
            if not quiet:
                print(solver, steps, outcomes[solver, steps].figures(), flush=True)
    return {
        "headline": _headline(outcomes[HEADLINE]),
        "headline_run": {"solver": HEADLINE[0], "steps": HEADLINE[1]},
        "history_over_restart_neighbour": _over_all(outcomes),
        "rows": [{"solver": solver, "steps": n, **made.figures()} for (solver, n), made in outcomes.items()],
        "weights_digest": pipeline.info.weights_digest,
    }


def measure(pipeline: Pipeline, judge: Judge, pairs: Sequence[Pair], solver: str, steps: int) -> Outcome:
    """Run one solver at one N, in joint batches, and pool the batches."""
    parts = [
        _measure_batch(pipeline, judge, pairs[at : at + BATCH], at, solver, steps)
        for at in range(0, len(pairs), BATCH)
    ]

    def joined(rows: list[dict[tuple[str, int], Floats]]) -> dict[tuple[str, int], Floats]:
        return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}

    return Outcome(
        full=np.concatenate([part.full for part in parts]),
        errors=joined([part.errors for part in parts]),
        own=joined([part.own for part in parts]),
        neighbour=joined([part.neighbour for part in parts]),
        same=np.concatenate([part.same for part in parts]),
    )


def _measure_batch(
    pipeline: Pipeline, judge: Judge, pairs: Sequence[Pair], first: int, solver: str, steps: int
) -> Outcome:
    targets = [pair.target for pair in pairs]
    source = _walk(pipeline, [pair.source for pair in pairs], solver, steps)
    target = _walk(pipeline, targets, solver, steps)
    _, theirs = source.run(*_noise(source, first, len(pairs)), 0)
    clean, mine = target.run(*_noise(target, 10_000 + first, len(pairs)), 0)
    full = pipeline.decode(clean)
    made = Outcome(_score(judge, full, targets), {}, {}, {}, np.array([pair.kind in SAME_SCENE for pair in pairs]))
    for memory in MEMORIES:
        for k in target.rounded:
            own = pipeline.decode(_resume(target, mine[k], k, memory))
            made.errors[memory, k] = np.square(own.astype(float) - full).mean(axis=(1, 2, 3))
            made.own[memory, k] = _score(judge, own, targets)
            near = pipeline.decode(_resume(target, theirs[k], k, memory))
            made.neighbour[memory, k] = _score(judge, near, targets)
    return made


def _walk(pipeline: Pipeline, captions: Sequence[Caption], solver: str, steps: int) -> Walk:
    info = pipeline.info
    states = [pipeline.encode(one.text, info.width, info.height) for one in captions]
    empty = pipeline.encode("", info.width, info.height, negative=True)
    return Walk(
        pipeline,
        SOLVERS[solver],
        pipeline.grid(solver, steps, info.width, info.height),
        {name: torch.stack([one[name] for one in states]) for name in empty},
        {name: torch.stack([empty[name]] * len(states)) for name in empty},
        capture_steps(SHARES, steps),
    )


def _noise(walk: Walk, first: int, count: int) -> tuple[Tensor, list[Memory]]:
    info = walk.pipeline.info
    drawn = [walk.pipeline.initial_noise(first + row, info.width, info.height) for row in range(count)]
    return torch.stack(drawn) * walk.grid.start, [Memory() for _ in drawn]


def _resume(walk: Walk, state: Snapshot, k: int, memory: str) -> Tensor:
    kept = copy.deepcopy(state.memories) if memory == "history" else [Memory() for _ in state.memories]
    return walk.run(state.latents, kept, k)[0]


def _stored(memory: Memory) -> Memory:
    """A copy in half precision, as a store would hold it."""
    anchor = None if memory.anchor is None else memory.anchor.half().float()
    return Memory([past.half().float() for past in memory.past], list(memory.levels), anchor, memory.order)


def _score(judge: Judge, images: np.ndarray[Any, np.dtype[np.uint8]], captions: Sequence[Caption]) -> Floats:
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return np.asarray(judge.score(batch, list(captions)).score, dtype=float)


def psnr(errors: Floats) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB of a mean squared error per picture, with its interval.

    Errors below what rounding to 8 bits makes count as that: 58.9 dB is "the same".
    """

    def ratio(rows: list[Floats]) -> float:
        return float(10 * np.log10(255**2 / max(rows[0].mean(), EIGHT_BITS)))

    return statistic_interval([errors], ratio, 0, 4000)


def _headline(made: Outcome) -> dict[str, float]:
    headline = {"full_score": float(made.full.mean())}
    for memory in MEMORIES:
        headline |= {
            f"{memory}_psnr": psnr(made.pooled(made.errors, memory))["value"],
            f"{memory}_score": float(made.pooled(made.own, memory).mean()),
            f"{memory}_neighbour_score": float(made.pooled(made.neighbour, memory).mean()),
        }
    return headline


def _over_all(outcomes: dict[tuple[str, int], Outcome]) -> dict[str, float]:
    """The judge's ratio on neighbours' states over every solver, N and K together, paired."""
    both = [np.concatenate([o.pooled(o.neighbour, memory) for o in outcomes.values()]) for memory in MEMORIES]
    return ratio_interval(both[1], both[0])
