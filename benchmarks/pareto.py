"""Quality against GPU time: does a cache beat fewer steps, and a smaller model?

The same sessions of requests are served by every arm: from scratch at many step counts, with a head start by the
shipped table at some of them, each with and without feature caching, by both shipped models. Time is a request's
share of the device time of its steps, judging steps that were thrown away included; arms take turns, block by block,
so that ratios are those of one run. Floor: an arm from scratch takes steps x evaluation; a head start takes what the
gate leaves of them. An arm is on the front if no other is both faster and better. Both models are measured side by
side, each in a process and on a core of its own.

`scenes-unet` and `scenes-dit` are each other's rival of another size; a smaller model of the same kind does not ship.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.matching_world import QUERY_SEED, Question, World, ask
from policies.features.choice import FeatureChoice
from policies.matching import GatedTableMatching, ThresholdTable
from service.calibrate.jobs import RunSettings, text_jobs
from service.calibrate.matching.trials import distinct_levels
from service.embedder import Embedder
from service.engine.base import JobSpec, ModelInfo
from training.lab import Lab, resumed
from training.pairs import sample_pairs

MODELS = ("scenes-unet", "scenes-dit")
SEED = 5005
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
NEIGHBOURS = 8
SCRATCH = (50, 20, 16, 12, 10, 8, 7, 6, 5)
CACHED = (16, 12, 10, 8, 7, 6)
FEATURED: dict[str, dict[int, FeatureChoice]] = {
    "scenes-unet": {
        12: FeatureChoice("cfg-cache+deepcache", 0.5),
        10: FeatureChoice("cfg-cache+deepcache", 0.25),
        8: FeatureChoice("cfg-cache", 0.25),
    },
    "scenes-dit": {
        steps: FeatureChoice("taylor-output", strength) for steps, strength in ((14, 0.5), (12, 0.25), (10, 0.25))
    },
}
"""What `benchmarks features` found best around N*, on other prompts."""
SOLVER = "dpmpp_2m"
BLOCK = 32
NEAR = 0.99
Numbered = Sequence[tuple[int, Question]]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to serve: N, whether from a cache, whether with feature caching."""

    steps: int
    cached: bool = False
    features: FeatureChoice | None = None

    @property
    def name(self) -> str:
        """For reports."""
        extra = [f"{self.steps} steps", *(["head start"] if self.cached else [])]
        reuse = [] if self.features is None else [f"{self.features.policy} {self.features.strength:g}"]
        return ", ".join([*extra, *reuse])


REFERENCE = Arm(50)


@dataclass
class Tally:
    """What an arm came to, one figure per request: device seconds, judge's score, share of the steps saved."""

    seconds: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure both shipped models and return the report."""
    sessions = BLOCK if quick else 2 * BLOCK
    measure = partial(_measure, sessions=sessions, quick=quick, quiet=quiet)
    with ProcessPoolExecutor(len(MODELS), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        models = dict(zip(MODELS, pool.map(measure, MODELS), strict=True))
    base = models[MODELS[0]]["reference_seconds"]
    for name, found in models.items():
        for row in found["arms"]:
            row |= {"model": name, "speedup_over_first": base / row["seconds"]["value"]}
    points = [row for found in models.values() for row in found["arms"]]
    best = {name: best_of(found["arms"]) for name, found in models.items()}
    first = best[MODELS[0]]
    return {
        "headline": {
            f"{kind}_speedup_at_99": None if (row := first[kind]) is None else row["speedup"]["value"]
            for kind in ("scratch", "head_start", "joint")
        }
        | {"front": [f"{row['model']}: {row['arm']}" for row in front(points)]},
        "models": models,
        "best": best,
        "sessions": sessions,
    }


def arms(model: str, *, quick: bool) -> list[Arm]:
    """Every arm, the reference first; `quick` takes a few."""
    scratch, cached = ((50, 8, 6), (8,)) if quick else (SCRATCH, CACHED)
    featured = list(FEATURED[model].items())[-1:] if quick else FEATURED[model].items()
    plain = [Arm(steps) for steps in scratch] + [Arm(steps, cached=True) for steps in cached]
    return plain + [Arm(steps, flag, choice) for steps, choice in featured for flag in (False, True)]


def front(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that no other beats in both time and score, fastest first."""
    kept: list[dict[str, Any]] = []
    for row in sorted(points, key=lambda one: (-one["speedup_over_first"], -one["score"]["value"])):
        if not kept or row["score"]["value"] > kept[-1]["score"]["value"]:
            kept.append(row)
    return kept


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Return the fastest arm of each kind that keeps 99 % of the score of 50 steps."""
    kinds = {
        "scratch": [row for row in rows if not row["cached"] and not row["features"]],
        "head_start": [row for row in rows if row["cached"] and not row["features"]],
        "features": [row for row in rows if row["features"] and not row["cached"]],
        "joint": [row for row in rows if row["features"] and row["cached"]],
    }
    return {
        kind: max(
            (row for row in of if row["quality"]["value"] >= NEAR),
            key=lambda row: float(row["speedup"]["value"]),
            default=None,
        )
        for kind, of in kinds.items()
    }


def _measure(name: str, sessions: int, *, quick: bool, quiet: bool) -> dict[str, Any]:
    model = Path("models") / name
    pairs = sample_pairs(SEED, sessions)
    questions = ask(Embedder(), [pair.source for pair in pairs], [pair.target for pair in pairs], NEIGHBOURS)
    policy = GatedTableMatching(ThresholdTable.load(model / "matching.json"))
    every = arms(name, quick=quick)
    with Lab(str(model), max_batch=16, quiet=True) as lab:
        worlds = {
            steps: World.remember(lab, _settings(steps, lab.info), [pair.source for pair in pairs])
            for steps in {arm.steps for arm in every if arm.cached}
        }
        tallies = {arm: Tally() for arm in every}
        order = random.Random(SEED)
        with tqdm(
            total=len(every) * len(questions), desc=name, position=MODELS.index(name), disable=quiet, leave=False
        ) as bar:
            for start in range(0, len(questions), BLOCK):
                for arm in order.sample(every, len(every)):
                    block = list(enumerate(questions))[start : start + BLOCK]
                    _serve(lab, arm, worlds.get(arm.steps), policy, block, tallies[arm])
                    bar.update(len(block))
    rows = [_row(arm, tally, tallies[REFERENCE]) for arm, tally in tallies.items()]
    return {"arms": rows, "reference_seconds": float(np.mean(tallies[REFERENCE].seconds))}


def _settings(steps: int, info: ModelInfo) -> RunSettings:
    return RunSettings(steps, SOLVER, info.default_guidance, distinct_levels(LEVELS, steps))


def _serve(
    lab: Lab,
    arm: Arm,
    world: World | None,
    policy: GatedTableMatching,
    block: list[tuple[int, Question]],
    into: Tally,
) -> None:
    specs = list(_specs(lab, arm, world, policy, block))
    results = lab.run(specs, arm.name)
    into.seconds += [result.denoise_seconds for result in results]
    into.saved += [(result.skipped - result.wasted) / result.steps for result in results]
    into.score += [float(one) for one in lab.judge(results, [question.target for _, question in block]).score]


def _specs(lab: Lab, arm: Arm, world: World | None, policy: GatedTableMatching, block: Numbered) -> Iterator[JobSpec]:
    # A full run captures, as a service's would: what it stores is what later requests are served from.
    settings = _settings(arm.steps, lab.info)
    texts, seeds = [one.target.text for _, one in block], [QUERY_SEED + number for number, _ in block]
    plain = text_jobs(texts, seeds, settings, lab.info, arm.name)
    for spec, (_, question) in zip(plain, block, strict=True):
        plan = world.plan(policy, question) if arm.cached and world is not None else ()
        points = [world.point(attempt) for attempt in plan] if world is not None else []
        yield replace(resumed(spec, points, "served") if points else spec, features=arm.features)


def _row(arm: Arm, tally: Tally, reference: Tally) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "steps": arm.steps,
        "cached": arm.cached,
        "features": arm.features is not None,
        "seconds": mean_interval(tally.seconds),
        "speedup": ratio_interval(reference.seconds, tally.seconds),
        "score": mean_interval(tally.score),
        "quality": ratio_interval(tally.score, reference.score),
        "saved": mean_interval(tally.saved),
    }
