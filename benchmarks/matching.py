"""Is a hit the right picture? The bad-hit rate at the shipped bound, and what each part of matching is worth.

A cache holds the runs of held-out scenes; sessions go on with rewordings, edits and repeats of them, and look for
their eight nearest. Each arm of the ablation serves all of them through the engine's own gate; the shipped table
alone serves many more, since a rate of a few per cent shows in hundreds of hits only. The bad-hit rate is
how much more often a hit on another text lacks something (over 5 % of the attributes asked for) that a full run shows
than a second full run does (`service.calibrate.matching.fit`); repeats of the same text are counted apart. Floor: a
hit that skips K of N steps saves K / N at most; steps spent on judging are taken off.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adversarial import AdversarialPair, adversarial_pairs
from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.matching_table import SHIPPED, SUITE
from benchmarks.matching_world import Question, Served, World, ask
from policies.matching import GatedTableMatching, MatchingPolicy, PaperTableMatching, ThresholdRow, ThresholdTable
from policies.matching.ranking import TableMatching
from policies.matching.veto import KINDS
from service.calibrate.jobs import RunSettings
from service.calibrate.matching.fit import excess_of, upper_limit
from service.calibrate.matching.trials import distinct_levels
from service.embedder import Embedder
from training.judge.by_text import LOSS
from training.lab import Lab
from training.pairs import Pair, sample_pairs

MODELS = ("scenes-unet", "scenes-dit")
TEST_SEED, WIDE_SEED = 3003, 3004
NEIGHBOURS = 8
FIXED = 0.75
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
Arm = tuple[MatchingPolicy, int]
"""A policy, and how many neighbours it looks at."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: sessions of the ablation, of the shipped table alone, adversarial pairs of each kind."""

    sessions: int
    wide: int
    per_kind: int


FULL, QUICK = Size(240, 600, 32), Size(24, 24, 2)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure both shipped models and return the report."""
    size = QUICK if quick else FULL
    embedder = Embedder()
    # The suite tests what similarity cannot see, which is the embedder's, not a model's: one is enough.
    models = {
        name: _measure(
            Path("models") / name, embedder, size if name == MODELS[0] else replace(size, per_kind=0), quiet=quiet
        )
        for name in MODELS
    }
    first = models[MODELS[0]]
    ours, arms_of = first["wide"], first["arms"]
    paper, beside = (arms_of[name]["saved"]["value"] for name in ("paper table", "headstart"))
    suite = first["adversarial"]
    return {
        "headline": {
            "bad_hit_rate": ours["bad_hit_rate"],
            "bad_hit_upper95": ours["bad_hit_upper95"],
            "saved_compute": ours["saved"]["value"],
            "saved_over_paper_table": beside / paper if paper else math.nan,
            "adversarial_bad_before": suite["fixed threshold"]["bad_of_pairs"]["value"],
            "adversarial_bad_after": suite["headstart"]["bad_of_pairs"]["value"],
        },
        "models": models,
        "sessions": size.sessions,
        "wide_sessions": size.wide,
        "loss": LOSS,
    }


def arms(table: ThresholdTable) -> dict[str, Arm]:
    """Every arm of the ablation."""
    open_rows = tuple(ThresholdRow(row.skip, row.min_similarity, math.inf) for row in table.rows)
    any_similarity = replace(table, rows=tuple(replace(row, min_similarity=-1.0) for row in table.rows))
    deepest = max((row.skip for row in table.rows), default=max(LEVELS))
    return {
        SHIPPED: (GatedTableMatching(table), NEIGHBOURS),
        "no veto": (GatedTableMatching(table, veto=frozenset()), NEIGHBOURS),
        "top-1 only": (GatedTableMatching(table), 1),
        "no gate": (_ungated(open_rows, KINDS), NEIGHBOURS),
        "gate alone": (GatedTableMatching(any_similarity, veto=frozenset()), NEIGHBOURS),
        "paper table": (PaperTableMatching(), 1),
        "fixed threshold": (_ungated((ThresholdRow(deepest, FIXED, math.inf),), frozenset()), 1),
    }


def _ungated(rows: tuple[ThresholdRow, ...], veto: frozenset[str]) -> MatchingPolicy:
    """The deepest state of the nearest entry that the rows allow, unjudged."""
    return TableMatching(rows=rows, max_attempts=1, needs_prediction=False, veto=veto)


def _measure(model: Path, embedder: Embedder, size: Size, *, quiet: bool) -> dict[str, Any]:
    table = ThresholdTable.load(model / "matching.json")
    hard = adversarial_pairs(embedder.embed_many, per_kind=size.per_kind) if size.per_kind else []
    with Lab(str(model), quiet=quiet, max_batch=16) as lab:
        info = lab.info
        capture = distinct_levels(LEVELS, info.default_steps)
        run = RunSettings(info.default_steps, info.solvers[0], info.default_guidance, capture)
        every = arms(table)
        shown = _serve(lab, run, embedder, sample_pairs(TEST_SEED, size.sessions), every)
        suite = _adversarial(lab, run, table, hard) if hard else {}
        wide = _serve(lab, run, embedder, sample_pairs(WIDE_SEED, size.wide), {SHIPPED: every[SHIPPED]})
    return {
        "arms": shown,
        "wide": wide[SHIPPED],
        "adversarial": suite,
        "adversarial_pairs": len(hard),
        "table": table.to_json(),
        "steps": info.default_steps,
    }


def _serve(
    lab: Lab, run: RunSettings, embedder: Embedder, pairs: Sequence[Pair], served_by: Mapping[str, Arm]
) -> dict[str, Any]:
    """Remember what the sessions begin with, and serve what follows by each arm."""
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    world = World.remember(lab, run, sources)
    asked = {count: ask(embedder, sources, targets, count) for count in {count for _, count in served_by.values()}}
    return {name: figures(world.serve(policy, asked[count], name)) for name, (policy, count) in served_by.items()}


def figures(served: Sequence[Served]) -> dict[str, Any]:
    """One arm: bad hits among hits on other texts, what is saved, and how good all pictures are."""
    hits = [one for one in served if one.source is not None and not one.repeat]
    found = _excess(hits)
    rate = mean_interval(found) if len(hits) else {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    return {
        "hits": len(hits),
        "repeats": sum(one.repeat for one in served),
        "requests": len(served),
        "worse": float((found > 0).sum()),
        "better": float((found < 0).sum()),
        "bad_hit_rate": rate["value"],
        "bad_hit_interval": rate,
        "bad_hit_upper95": upper_limit(found, 0.95) if len(hits) else 0.0,
        "saved": mean_interval([one.saved for one in served]),
        "saved_without_repeats": mean_interval([one.saved for one in served if not one.repeat]),
        "quality": ratio_interval([one.score for one in served], [one.other for one in served]),
    }


def _adversarial(
    lab: Lab, run: RunSettings, table: ThresholdTable, pairs: Sequence[AdversarialPair]
) -> dict[str, Any]:
    """Each pair alone: its source is all that the cache holds."""
    world = World.remember(lab, run, [pair.source for pair in pairs])
    questions = [Question(pair.target, ((row, pair.similarity),)) for row, pair in enumerate(pairs)]
    shown = {}
    for name in SUITE:
        served = world.serve(arms(table)[name][0], questions, f"adversarial, {name}")
        bad = np.where([one.source is not None for one in served], _excess(served), 0.0)
        shown[name] = {
            "hits": sum(one.source is not None for one in served),
            "bad_of_pairs": mean_interval(bad),
            "bad_of_hits": mean_interval([b for b, one in zip(bad, served, strict=True) if one.source is not None]),
            "by_kind": {
                kind: {
                    "pairs": sum(pair.kind == kind for pair in pairs),
                    "hits": sum(
                        one.source is not None and pair.kind == kind for one, pair in zip(served, pairs, strict=True)
                    ),
                    "bad": sum(b and pair.kind == kind for b, pair in zip(bad, pairs, strict=True)),
                }
                for kind in sorted({pair.kind for pair in pairs})
            },
        }
    return shown


def _excess(served: Sequence[Served]) -> Floats:
    hit = np.array([one.score for one in served], dtype=float)
    full = np.array([one.full for one in served], dtype=float)
    other = np.array([one.other for one in served], dtype=float)
    return excess_of(hit, full, other, LOSS)
