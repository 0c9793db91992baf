"""Which measure of divergence foretells a bad hit, and how small a signature will do?

Held-out pairs of prompts, those that a cache would bring before the gate, are resumed at every level, as
`headstart calibrate matching` does it, and judged. At the level where the gate judges, the network is asked for its
prediction under the new prompt, the source's, and none; all measures are computed from these three. A good one ranks
hits so that many can be served before the bad-hit rate exceeds a bound. Floor: a signature weighs C x side^2 numbers
beside a state of C x h x w.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.facts import Floats
from benchmarks.gate_picture import ValueOf, added, auc, picture_milliseconds, picture_of, together
from benchmarks.gate_table import SHIPPED, TOGETHER
from benchmarks.resume_trials import MODEL
from service.calibrate.jobs import RunSettings, nearest_state
from service.calibrate.matching.fit import excess
from service.calibrate.matching.pairs import MatchPair
from service.calibrate.matching.trials import Block, Experiment, Trial, distinct_levels
from service.embedder import Embedder
from service.engine.base import CapturedState, Pipeline, Rows
from service.engine.loading import load_pipeline
from service.pictures import encode
from training.judge.by_text import LOSS, scenes
from training.lab import Lab, fastest_dtype
from training.pairs import SESSION_MIX, proposals, sample_pairs

SEED, FULL, QUICK = 4004, 480, 32
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
FAR = 2.0
"""Pairs above this divergence are given up: no measure would serve them."""
BATCH = 8
RATES = (0.02, 0.05)
SIDES = (4, 8, 16)

Three = tuple[Floats, Floats, Floats]
"""Clean-latent predictions [N, C, h, w] under the new prompt, the source's and none, without guidance."""


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure on scenes-unet and return the report."""
    mix = {kind: odds for kind, odds in SESSION_MIX.items() if kind != "retry"}
    embedder = Embedder()
    pairs = proposals(sample_pairs(SEED, QUICK if quick else FULL, mix), embedder.embed_now)
    similarity = [float(embedder.embed_now(pair.source) @ embedder.embed_now(pair.target)) for pair in pairs]
    with Lab(str(MODEL), quiet=quiet, max_batch=16) as lab:
        info = lab.info
        run_of = RunSettings(
            info.default_steps, info.solvers[0], info.default_guidance, distinct_levels(LEVELS, info.default_steps)
        )
        states: dict[int, CapturedState] = {}
        experiment = Experiment(lab, scenes(), run_of, FAR, lambda block: _keep(block, run_of.capture[0], states))
        numbered = [(n, pair, s) for n, (pair, s) in enumerate(zip(pairs, similarity, strict=True))]
        with tqdm(total=len(pairs) * experiment.jobs_per_pair, desc="trials", disable=quiet, leave=False) as bar:
            trials = [
                trial
                for start in range(0, len(numbered), 32)
                for trial in experiment.trials(numbered[start : start + 32], bar.update)
            ]
    kept = [trial for trial in trials if math.isfinite(trial.early)]
    numbers = sorted({trial.pair for trial in kept})
    three = _predictions([(pairs[n], states[n]) for n in numbers], quiet=quiet)
    measures = _measures(three, info.default_guidance)
    measures["cosine of the prompts"] = -np.array([similarity[n] for n in numbers])
    by_pair = {name: dict(zip(numbers, map(float, value), strict=True)) for name, value in measures.items()}
    both = together(kept, by_pair[SHIPPED])
    rows = [_row(name, _by_pair(values), kept) for name, values in by_pair.items()]
    rows += [_row("judge's score of the source's picture", picture_of, kept), _row(TOGETHER, both, kept)]
    return {
        "headline": {"shipped": SHIPPED, "shares": {row["measure"]: row["served"] for row in rows}},
        "rows": rows,
        "picture": {"levels": added(kept, by_pair[SHIPPED], both), "milliseconds": _costs(pairs[numbers[0]], states)},
        "pairs": len(pairs),
        "kept": len(numbers),
        "rates": list(RATES),
        "level": run_of.capture[0],
    }


def _by_pair(values: Mapping[int, float]) -> ValueOf:
    return lambda trial: values[trial.pair]


def _costs(pair: MatchPair, states: Mapping[int, CapturedState]) -> dict[str, float]:
    """What looking at pictures costs beside a guided evaluation of one row."""
    pipeline = load_pipeline(str(MODEL), "cpu", fastest_dtype())
    rows = _rows(pipeline, [pair.target], [next(iter(states.values()))], pipeline.info.default_guidance)
    side = pipeline.info.width
    png = encode(np.zeros((side, side, 3), np.uint8))
    return picture_milliseconds(scenes(), png, pair.target, lambda: pipeline.predict(rows))


def _keep(block: Block, level: float, states: dict[int, CapturedState]) -> None:
    for (number, _, _), source in zip(block.pairs, block.sources, strict=True):
        states[number] = nearest_state(source.captured, level)


def _predictions(cases: Sequence[tuple[MatchPair, CapturedState]], *, quiet: bool) -> Three:
    """Ask the network for all three predictions at every state."""
    pipeline = load_pipeline(str(MODEL), "cpu", "float32")
    found: list[list[Floats]] = [[], [], []]
    for start in tqdm(range(0, len(cases), BATCH), desc="predictions", disable=quiet, leave=False):
        part = cases[start : start + BATCH]
        texts = ([pair.target for pair, _ in part], [pair.source for pair, _ in part], [""] * len(part))
        for into, prompts in zip(found, texts, strict=True):
            into.append(_predict(pipeline, prompts, [state for _, state in part], negative=prompts[0] == ""))
    target, source, nothing = (np.concatenate(parts) for parts in found)
    return target, source, nothing


def _predict(
    pipeline: Pipeline, prompts: Sequence[str], states: Sequence[CapturedState], *, negative: bool
) -> Floats:
    rows = _rows(pipeline, prompts, states, 1.0, negative=negative)
    return np.asarray(pipeline.predict(rows).numpy(), dtype=np.float64)


def _rows(
    pipeline: Pipeline,
    prompts: Sequence[str],
    states: Sequence[CapturedState],
    guidance: float,
    *,
    negative: bool = False,
) -> Rows:
    info = pipeline.info
    encoded = [pipeline.encode(prompt, info.width, info.height, negative=negative) for prompt in prompts]
    conditions = {name: torch.stack([one[name] for one in encoded]) for name in encoded[0]}
    latents = torch.stack([torch.tensor(state.latent).float() for state in states])
    levels = [pipeline.level(state.timestep) for state in states]
    return Rows(
        latents=latents,
        timesteps=latents.new_tensor([state.timestep for state in states]),
        alphas=latents.new_tensor([level.alpha for level in levels]),
        sigmas=latents.new_tensor([level.sigma for level in levels]),
        conditions=conditions,
        negatives=conditions,
        guidance=torch.full((len(states),), guidance),
    )


def _measures(three: Three, guidance: float) -> dict[str, Floats]:
    """Every measure's values, one per pair."""
    target, source, nothing = three
    new, old = nothing + guidance * (target - nothing), nothing + guidance * (source - nothing)
    found: dict[str, Floats] = {}
    for side in SIDES:
        pooled = [_pool(one, side) for one in (new, old, new - nothing)]
        found |= {f"{name}, {side}x{side}": value for name, value in _of(*pooled).items()}
    small = [_pool(one, 8) for one in (new, old, new - nothing)]
    found["mean / influence, 8x8, int8"] = _of(small[0], _int8(small[1]), small[2])["mean / influence"]
    plain = [_pool(one, 8) for one in (target, source, target - nothing)]
    found["mean / influence, 8x8, without guidance"] = _of(*plain)["mean / influence"]
    return found


def _of(new: Floats, old: Floats, influence: Floats) -> dict[str, Floats]:
    cells = _cells(new - old)
    contrast = _cells(old - old.mean(axis=(-2, -1), keepdims=True)).mean(axis=1)
    sizes: dict[str, Callable[[Floats], Floats]] = {
        "mean": lambda c: np.asarray(c.mean(axis=1)),
        "RMS": lambda c: np.sqrt((c**2).mean(axis=1)),
        "75th percentile": lambda c: np.quantile(c, 0.75, axis=1),
        "90th percentile": lambda c: np.quantile(c, 0.9, axis=1),
        "largest cell": lambda c: np.asarray(c.max(axis=1)),
    }
    said = _cells(influence).mean(axis=1)
    return {f"{name} / contrast": size(cells) / contrast for name, size in sizes.items()} | {
        f"{name} / influence": size(cells) / said for name, size in sizes.items()
    }


def _pool(latents: Floats, side: int) -> Floats:
    """Means over equal cells: [N, C, side, side]."""
    n, c, h, w = latents.shape
    return np.asarray(latents.reshape(n, c, side, h // side, side, w // side).mean(axis=(3, 5)))


def _cells(pooled: Floats) -> Floats:
    """RMS over channels of every cell: [N, cells]."""
    return np.asarray(np.sqrt((pooled**2).mean(axis=1)).reshape(len(pooled), -1))


def _int8(pooled: Floats) -> Floats:
    """What is left of a signature kept as int8 with one scale per channel."""
    scale = np.abs(pooled).max(axis=(-2, -1), keepdims=True) / 127
    return np.asarray(np.round(pooled / scale) * scale)


def _row(name: str, value_of: ValueOf, trials: Sequence[Trial]) -> dict[str, Any]:
    """How well one measure ranks the hits of each level but the judging one."""
    levels = sorted({trial.skip for trial in trials})[1:]
    row: dict[str, Any] = {"measure": name, "auc": {}, "served": {}}
    for level in levels:
        ordered = sorted((t for t in trials if t.skip == level), key=value_of)
        found = excess(ordered, LOSS)
        row["auc"][f"{level:g}"] = auc(found > 0, np.array([value_of(trial) for trial in ordered]))
        row["served"][f"{level:g}"] = [_share(found, rate) for rate in RATES]
    return row


def _share(found: NDArray[np.float64], rate: float) -> float:
    """The largest share of hits, most alike first, whose bad-hit rate is within `rate`; at least twenty."""
    means = np.cumsum(found) / np.arange(1, len(found) + 1)
    within = np.flatnonzero((means <= rate) & (np.arange(1, len(found) + 1) >= min(20, len(found))))
    return float((within[-1] + 1) / len(found)) if len(within) else 0.0
