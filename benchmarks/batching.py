"""What is step-level continuous batching worth, and what does the loop cost?

Five systems answer the same requests (prompts, seeds, N = 50, shipped guidance and size) on the same machine, in one
process behind the same minimal FastAPI app, over the same weights in the same number type and with the same threads:

* `diffusers_one`: diffusers' pipeline, one request at a time;
* `diffusers_static`: the same pipeline in static batches: what waits, at most `max_batch`, runs to its end;
* `uncached`: the engine, every request in full;
* `apart`: the engine with hits, batched as a system without step-level batching must: a batch holds only requests
  that enter at the same step, they start together and run to their end, then whoever waits longest opens the next;
* `joined`: the engine with hits, each joining the running batch at its own step.

Hits enter at K from 5 to 25, at states of neighbouring prompts captured before the clock starts, and are not judged:
the question is batching, not matching. Clients ask in a closed loop, twice as many as fit a batch, so every batch is
as full as its system can make it. The first three do not look at hits: one run of each stands for every mix, and
without hits `joined` is `uncached`, while `apart` is static batches of the engine. Systems take turns in rounds of
rotating order. Ceiling: the ratio of network evaluations, N over the mix's mean N - K.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.live import free_port, live_process
from benchmarks.serving.load import ClosedLoop, Window
from benchmarks.serving.loop_share import measure_shares
from benchmarks.serving.wishes import BLOCK, Mix, Stage, wish_stream
from service.pictures import decode

NONE, HEADLINE_MIX = Mix(0), Mix(75)
MIXES = (Mix(25), Mix(50), HEADLINE_MIX, Mix(75, (25,)))
FIXED = ("diffusers_one", "diffusers_static", "uncached")
CACHED = ("apart", "joined")
CLIENTS_PER_ROW = 2
PATIENCE = 900.0
HEADLINE_MODEL, HEADLINE_BATCH = "scenes-unet", 8
TARGET, TOLERANCE = 1.6, 0.95
"""What joined over uncached should reach at 75 % hits, and the share of the step-count ratio to be realised."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: how often every system has its turn.
        mixes: of requests, for the systems that look at hits.
        batches: how many full batches' worth of pictures a window holds; one at a time, half as many pictures.
    """

    rounds: int
    mixes: tuple[Mix, ...]
    batches: int = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """One system under one mix."""

    system: str
    mix: Mix


Windows = dict[Turn, list[Window]]


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes one round of the headline's mixes, in one number type."""
    main = Stage(pairs=8 if quick else 16)
    effort = Effort(1, MIXES[2:]) if quick else Effort(3, MIXES)
    sections = [measure(main, effort, quiet=quiet)]
    if not quick:
        sections.append(measure(Stage(dtype="bfloat16"), Effort(3, (HEADLINE_MIX,)), quiet=quiet))
    loop = measure_shares(main.dtype, main.steps, quick=quick, quiet=quiet)
    ratios = sections[0]["mixes"][HEADLINE_MIX.name]
    return {
        "headline": {
            "joined_over_uncached_75": ratios["joined_over_uncached"]["value"],
            "joined_over_apart_75": ratios["joined_over_apart"]["value"],
            "uncached_over_static": sections[0]["uncached_over_static"]["value"],
            "loop_overhead_share": headline_share(loop),
        },
        "sections": sections,
        "loop": {"dtype": main.dtype, "steps": main.steps, "models": loop},
        "acceptance": acceptance(sections[0]),
    }


def measure(stage: Stage, effort: Effort, *, quiet: bool) -> dict[str, Any]:
    """Return the figures of all systems over one server."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving.app", str(port), json.dumps(asdict(stage))]
    with live_process(command, port, os.environ, PATIENCE) as url:
        differences = same_pictures(url, stage)
        windows = all_rounds(url, stage, effort, quiet)
    return {**asdict(stage), "rounds": effort.rounds, "picture_difference": differences, **figures(stage, windows)}


def same_pictures(url: str, stage: Stage, systems: Sequence[str] = (*FIXED, *CACHED)) -> dict[str, float]:
    """Warm the systems up, and tell how far a full run's picture is from the first's: mean levels of 255."""
    wish = next(wish_stream(stage.neighbours, NONE))
    made = {}
    for system in systems:
        answer = httpx.post(f"{url}/draw/{system}", json=wish.body(), timeout=PATIENCE).raise_for_status()
        made[system] = decode(answer.content).astype(float)
    return {name: float(np.abs(picture - made[systems[0]]).mean()) for name, picture in made.items()}


def all_rounds(url: str, stage: Stage, effort: Effort, quiet: bool) -> Windows:
    """Give every system its turn in every round; the order rotates from round to round."""
    turns = [Turn(system, NONE) for system in (*FIXED, "apart")]
    turns += [Turn(system, mix) for mix in effort.mixes for system in CACHED]
    windows: Windows = {turn: [] for turn in turns}
    for number in range(effort.rounds):
        for turn in rotated(turns, number * len(turns) // effort.rounds):
            windows[turn].append(take_turn(url, stage, turn, effort, number, quiet))
    return windows


def rotated(turns: Sequence[Turn], by: int) -> list[Turn]:
    """Return the turns in another order, so that no system always follows the same heat."""
    return [*turns[by:], *turns[:by]]


def take_turn(url: str, stage: Stage, turn: Turn, effort: Effort, number: int, quiet: bool) -> Window:
    """Let one system answer requests until its window is full."""
    warm, measured = stage.max_batch, effort.batches * stage.max_batch
    if turn.system == "diffusers_one":
        warm, measured = 1, measured // 2
    stream: Iterable[Any] = wish_stream(stage.neighbours, turn.mix, number * BLOCK)
    if turn.system.startswith("diffusers"):  # ends with a full batch; the others are stopped while full
        stream = islice(stream, warm + measured)
    clients = CLIENTS_PER_ROW * stage.max_batch
    label = f"{stage.dtype} {turn.system} {turn.mix.name}"
    with tqdm(total=warm + measured, desc=label, disable=quiet, leave=False) as bar:
        load = ClosedLoop(url, f"/draw/{turn.system}", iter(stream), clients, warm + measured, bar.update)
        return Window.of(asyncio.run(load.run()), warm, measured)


def figures(stage: Stage, windows: Windows) -> dict[str, Any]:
    """Turn windows into throughput and latency per system and mix, and into ratios over paired rounds."""
    speeds = {
        turn: np.array([window.pictures_per_second(turn.mix.evaluations(stage.steps)) for window in taken])
        for turn, taken in windows.items()
    }
    uncached, static, one = (speeds[Turn(name, NONE)] for name in ("uncached", "diffusers_static", "diffusers_one"))
    mixes = {turn.mix: None for turn in windows if turn.mix != NONE}
    return {
        "clients": CLIENTS_PER_ROW * stage.max_batch,
        "systems": [_row(turn, taken, speeds[turn], stage) for turn, taken in windows.items()],
        "uncached_over_static": ratio_interval(uncached, static),
        "uncached_over_one": ratio_interval(uncached, one),
        "mixes": {mix.name: _ratios(speeds, mix, stage.steps) for mix in mixes},
    }


def _row(turn: Turn, taken: Sequence[Window], speed: Floats, stage: Stage) -> dict[str, Any]:
    latencies = [latency for window in taken for latency in window.latencies]
    return {
        "system": turn.system,
        "hits": turn.mix.hits,
        "skips": list(turn.mix.skips) if turn.mix.hits else [],
        "pictures_per_second": mean_interval(speed),
        "finished_per_second": mean_interval([window.finished / window.seconds for window in taken]),
        "evaluations_per_second": mean_interval([window.evaluations / window.seconds for window in taken]),
        "evaluations_per_picture": turn.mix.evaluations(stage.steps),
        "latency_p50": float(np.percentile(latencies, 50)),
        "latency_p95": float(np.percentile(latencies, 95)),
        "pictures": len(latencies),
    }


def _ratios(speeds: dict[Turn, Floats], mix: Mix, steps: int) -> dict[str, Any]:
    joined, apart = (speeds[Turn(name, mix)] for name in ("joined", "apart"))
    uncached, static = (speeds[Turn(name, NONE)] for name in ("uncached", "diffusers_static"))
    ideal = steps / mix.evaluations(steps)
    return {
        "hits": mix.hits,
        "step_count_ratio": ideal,
        "joined_over_uncached": ratio_interval(joined, uncached),
        "realised_over_ideal": ratio_interval(joined, uncached * ideal),
        "joined_over_apart": ratio_interval(joined, apart),
        "apart_over_uncached": ratio_interval(apart, uncached),
        "joined_over_static": ratio_interval(joined, static),
    }


def headline_share(loop: dict[str, Any]) -> float:
    """Share of the wall time outside forwards of network and decoder, for the headline's model and batch.

    Raises:
        StopIteration: it was not measured.
    """
    rows = loop[HEADLINE_MODEL]["batches"]
    return float(next(row["outside"] for row in rows if row["batch"] == HEADLINE_BATCH))


def acceptance(section: dict[str, Any]) -> dict[str, Any]:
    """What was asked for and whether it was met; the step-count ratio beside it says what can be met at all."""
    at_75 = section["mixes"][HEADLINE_MIX.name]
    realised = min(mix["realised_over_ideal"]["value"] for mix in section["mixes"].values())
    return {
        "joined_over_uncached_75_at_least": TARGET,
        "joined_over_uncached_75_met": at_75["joined_over_uncached"]["value"] >= TARGET,
        "step_count_ratio_75": at_75["step_count_ratio"],
        "realised_over_ideal_at_least": TOLERANCE,
        "least_realised_over_ideal": realised,
        "realised_over_ideal_met": realised >= TOLERANCE,
        "uncached_over_static_met": section["uncached_over_static"]["value"] >= 1.0,
    }
