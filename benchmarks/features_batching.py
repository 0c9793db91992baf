"""Does feature caching raise the throughput of mixed batches, or only lower their multiply-adds?

The engine with hits of benchmarks/batching.py (75 %, K from 5 to 25 of 50 steps, clients in a closed loop over HTTP),
with and without feature caching, in rotating turns of one run. Rows of one batch are at different steps and decide
one by one, so what each saves must survive being batched with others that compute. Ceiling: the ratio of
multiply-adds.
"""

import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.batching import HEADLINE_MIX, NONE, PATIENCE, Effort, Turn, Windows, rotated, same_pictures, take_turn
from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.features.lab import FeatureLab
from benchmarks.features.systems import System
from benchmarks.live import free_port, live_process
from benchmarks.serving.wishes import FEATURES, Stage
from training.lab import resume_point
from training.loop import UNET_FOLDER
from training.pairs import Pair

SYSTEMS = ("uncached", "joined", *FEATURES)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes one round."""
    stage, effort = Stage(pairs=8 if quick else 16), Effort(1 if quick else 3, (HEADLINE_MIX,))
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving.app", str(port), json.dumps(asdict(stage))]
    turns = [Turn(system, NONE if system == "uncached" else HEADLINE_MIX) for system in SYSTEMS]
    windows: Windows = {turn: [] for turn in turns}
    with live_process(command, port, os.environ, PATIENCE) as url:
        differences = same_pictures(url, stage, SYSTEMS)
        for number in range(effort.rounds):
            for turn in rotated(turns, number * len(turns) // effort.rounds):
                windows[turn].append(take_turn(url, stage, turn, effort, number, quiet))
    rows = _rows(stage, windows, _shares(stage, quiet=quiet))
    best = max(rows, key=lambda row: row["over_joined"]["value"])
    return {
        "headline": {"features_over_joined_75": best["over_joined"]["value"], "policy": best["system"]},
        **asdict(stage),
        "rounds": effort.rounds,
        "picture_difference": differences,
        "systems": rows,
    }


def _shares(stage: Stage, *, quiet: bool) -> dict[str, float]:
    """Multiply-adds of the mix with each policy, of those without, counted over runs from every K."""
    lab = FeatureLab(UNET_FOLDER, quiet=quiet)
    found = {}
    for name, choice in FEATURES.items():
        executed, whole = 0.0, 0.0
        for entry, count in _entries():
            share = _share(lab, stage.neighbours[0], System(stage.steps, stage.solver, choice, entry))
            executed += count * share * (stage.steps - entry)
            whole += count * (stage.steps - entry)
        found[name] = executed / whole
    return found


def _entries() -> list[tuple[int, int]]:
    block = HEADLINE_MIX.block()
    return [(entry, block.count(entry)) for entry in sorted(set(block))]


def _share(lab: FeatureLab, pair: Pair, system: System) -> float:
    spec = lab.spec(pair.target, 1, system)
    if system.entry:
        source = replace(lab.spec(pair.source, 2, system.plain), capture=(system.entry / system.steps,))
        state = lab.run([source])[1][0].captured[0]
        spec = replace(spec, resume=(resume_point(state),))
    report = lab.run([spec])[1][0].features
    return 1.0 if report is None else report.compute_share


def _rows(stage: Stage, windows: Windows, shares: dict[str, float]) -> list[dict[str, Any]]:
    speeds = {
        turn.system: np.array([one.pictures_per_second(turn.mix.evaluations(stage.steps)) for one in taken])
        for turn, taken in windows.items()
    }
    return [
        {
            "system": turn.system,
            "pictures_per_second": mean_interval(speeds[turn.system]),
            "over_joined": ratio_interval(speeds[turn.system], speeds["joined"]),
            "over_uncached": ratio_interval(speeds[turn.system], speeds["uncached"]),
            "flops_over_joined": 1 / shares[turn.system] if turn.system in shares else None,
            "latency_p50": float(np.percentile([x for one in taken for x in one.latencies], 50)),
            "latency_p95": float(np.percentile([x for one in taken for x in one.latencies], 95)),
        }
        for turn, taken in windows.items()
    ]
