"""Is every answered picture drawn again bit for bit, and what does that cost?

Random requests go through the real service over HTTP, several at once: sizes, step counts, solvers, guidance,
seeds, feature caching, repeats, and neighbours that hang up in the middle of their run. Then every picture is
replayed, again several at once, and its pixels are compared with the first answer's here, not by the service. The
store of `tiny` holds the states of some thirty generations: many sources have to be drawn again from their records.

* `tiny`: a model of random weights that resumes whatever is similar, drawn batch-invariant: the count;
* `shipped`: scenes-unet with its own threshold table, batch-invariant;
* `joint`: scenes-unet in joint batches, as the service is set by default: what a replay differs by there.

The cost: one tick of the loop with 1, 4 and 8 pictures of scenes-unet in it, row by row over joint, in turns.
"""

import asyncio
import base64
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.facts import ratio_interval
from benchmarks.live import live_service
from benchmarks.tiny_model import build_resuming_model
from service.engine.base import JobSpec
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from service.pictures import decode
from service.settings import DEFAULT_MODEL

Pixels = NDArray[np.uint8]
CLIENTS = 8
PATIENCE = 900.0
TINY_STATE_BYTES = 300_000
HANG_UPS = 0.05
SUBJECTS = ("red cube", "blue ball", "green cone", "yellow ring", "white star", "black box")
PLACES = ("on a table", "on a wooden table", "in a field", "in a wide field", "by the sea", "at the sea shore")
SOLVERS = (
    "ddim",
    "euler",
    "dpmpp_2m",
    "unipc",
    "euler_ancestral",
    "heun",
    "kdpm2",
    "lms",
    "deis",
    "pndm",
    "ddpm",
    "lcm",
)
FEATURES = ("deepcache", "interval", "cfg-cache", "cfg-cache+deepcache")
BATCHES = (1, 4, 8)


@dataclass(frozen=True, slots=True)
class Effort:
    """How many generations each part makes, and how often a cost is measured."""

    tiny: int
    shipped: int
    joint: int
    rounds: int


FULL, QUICK = Effort(1_100, 60, 60, 12), Effort(80, 8, 8, 3)


@dataclass(frozen=True, slots=True)
class Wish:
    """One request, and after how many seconds its client hangs up, if it does."""

    body: dict[str, Any]
    hang_up: float | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answered picture: its id, what it was asked with, its pixels."""

    generation: str
    texts: dict[str, str]
    pixels: Pixels


@dataclass
class Tally:
    """What became of the generations of one part.

    Attributes:
        verdicts: of the pictures.
        identical: replays with every pixel the same.
        worst: largest difference of a level.
        told_wrong: replays whose answer says something else than the pixels do.
        again: replays that drew a source again.
        hung_up: requests whose client went away.
        refused: replays without a picture, by error code.
        unlike: replays that differ although the record says that the picture was drawn as if alone.
        kinds: pictures with feature caching, by solver, and so on.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    identical: int = 0
    worst: int = 0
    told_wrong: int = 0
    again: int = 0
    hung_up: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unlike: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def pictures(self) -> int:
        """Generations answered."""
        return sum(self.verdicts.values())

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        figures = {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}
        return {"pictures": self.pictures, "identical_share": self.identical / max(1, self.pictures), **figures}


def run(*, quick: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Measure; see the module's docstring."""
    effort = QUICK if quick else FULL
    shipped = str(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory(prefix="headstart-tiny-") as folder:
        tiny = str(build_resuming_model(Path(folder) / "tiny"))
        parts = {
            "tiny": _part(tiny, effort.tiny, (32, 48), quiet, state_bytes=str(TINY_STATE_BYTES)),
            "shipped": _part(shipped, effort.shipped, (64, 128), quiet),
            "joint": _part(shipped, effort.joint, (64, 128), quiet, batch_invariant="false"),
        }
    cost = [_cost(jobs, effort.rounds, quiet) for jobs in BATCHES]
    exact = [parts["tiny"], parts["shipped"]]
    headline = {
        "generations": sum(part["pictures"] for part in exact),
        "identical_share": sum(part["identical"] for part in exact) / sum(part["pictures"] for part in exact),
        "max_difference": max(part["worst"] for part in exact),
        "joint_identical_share": parts["joint"]["identical_share"],
        "joint_max_difference": parts["joint"]["worst"],
        "row_by_row_over_joint_8": cost[-1]["ratio"]["value"],
    }
    return {"headline": headline, **parts, "cost": cost}


def _part(model: str, count: int, sides: tuple[int, ...], quiet: bool, **settings: str) -> dict[str, Any]:
    chosen = {"batch_invariant": "true", "threads": "1", "store_timeout_seconds": "10", **settings}
    with live_service(model=model, patience_seconds=PATIENCE, **chosen) as url:
        started = time.perf_counter()
        tally = asyncio.run(_draw_and_replay(url, count, sides))
    if not quiet:
        print(f"{Path(model).name} {chosen}: {tally.report()}", file=sys.stderr)
    return {**tally.report(), "seconds": round(time.perf_counter() - started, 1)}


async def _draw_and_replay(url: str, count: int, sides: tuple[int, ...], seed: int = 0) -> Tally:
    rng, tally = random.Random(seed), Tally()
    wishes = list(_wishes(rng, count, sides))
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        drawn: list[Drawn] = []
        await _in_turns(wishes, lambda wish: _draw(http, wish, tally, drawn))
        rng.shuffle(drawn)
        await _in_turns(drawn, lambda one: _replay(http, one, tally))
    return tally


async def _in_turns(items: Iterable[Any], work: Any) -> None:
    """Let so many clients work through `items`."""
    waiting = iter(list(items))

    async def client() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def _wishes(rng: random.Random, count: int, sides: tuple[int, ...]) -> Iterable[Wish]:
    """Yield so many requests whose clients stay, and some whose do not among them."""
    earlier: list[dict[str, Any]] = []
    left = count
    while left:
        body = dict(rng.choice(earlier)) if earlier and rng.random() < 0.08 else _body(rng, sides)
        hang_up = rng.uniform(0.01, 0.3) if rng.random() < HANG_UPS else None
        left -= hang_up is None
        if "seed" in body:
            earlier.append(body)
        yield Wish(body, hang_up)


def _body(rng: random.Random, sides: tuple[int, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": f"a {rng.choice(SUBJECTS)} {rng.choice(PLACES)}",
        "num_inference_steps": rng.choice((2, 3, 4, 6, 8, 10)),
        "scheduler": rng.choice(SOLVERS),
        "size": f"{rng.choice(sides)}x{sides[0]}",
        "cache": {"mode": rng.choices(("approximate", "auto", "off"), (12, 2, 1))[0]},
    }
    if rng.random() < 0.3:
        body["seed"] = rng.randrange(1_000)
    if rng.random() < 0.3:
        body["feature_cache"] = {"policy": rng.choice(FEATURES), "strength": rng.choice((0.3, 0.6, 0.9))}
    if rng.random() < 0.1:
        body["guidance_scale"] = rng.choice((1.0, 2.0, 3.0))
    if rng.random() < 0.1:
        body["negative_prompt"] = "blurred"
    return body


async def _draw(http: httpx.AsyncClient, wish: Wish, tally: Tally, drawn: list[Drawn]) -> None:
    try:
        answer = await http.post("/v1/images/generations", json=wish.body, timeout=wish.hang_up or PATIENCE)
    except httpx.TimeoutException:
        tally.hung_up += 1
        return
    answer.raise_for_status()
    picture = answer.json()["data"][0]
    tally.verdicts[picture["cache"]["verdict"]] += 1
    tally.kinds[wish.body["scheduler"]] += 1
    tally.kinds["feature caching"] += picture["feature_cache"]["reused"] > 0
    tally.kinds["sent deeper or refused"] += picture["cache"]["wasted_steps"] > 0
    # Of what is not to be remembered only its client can name the texts.
    texts = {name: str(text) for name, text in wish.body.items() if name in ("prompt", "negative_prompt")}
    drawn.append(Drawn(picture["id"], texts, decode(base64.b64decode(picture["b64_json"]))))


async def _replay(http: httpx.AsyncClient, drawn: Drawn, tally: Tally) -> None:
    answer = await http.post(f"/v1/generations/{drawn.generation}/replay", json=drawn.texts)
    if answer.status_code != 200:
        tally.refused[answer.json()["error"]["code"]] += 1
        return
    again = answer.json()
    after = decode(base64.b64decode(again["b64_json"]))
    difference = int(np.abs(drawn.pixels.astype(np.int16) - after.astype(np.int16)).max())
    tally.worst = max(tally.worst, difference)
    tally.identical += difference == 0
    tally.told_wrong += again["identical"] != (difference == 0) or again["max_difference"] not in (difference, None)
    tally.again += again["runs"] > 1
    if difference:
        record = (await http.get(f"/v1/generations/{drawn.generation}")).json()
        tally.unlike += record["batch_invariant"]


def _cost(jobs: int, rounds: int, quiet: bool) -> dict[str, Any]:
    """Time ticks of the loop with so many pictures in it, isolated and joint in turns."""
    torch.set_num_threads(1)
    pipeline = load_pipeline(str(DEFAULT_MODEL), "cpu", "float32")
    loops = {isolated: _loop(pipeline, jobs, isolated=isolated) for isolated in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds):
        for isolated in (False, True) if turn % 2 else (True, False):
            started = time.process_time()
            loops[isolated].tick()
            seconds[isolated].append(time.process_time() - started)
    figures = {"jobs": jobs, "ratio": ratio_interval(seconds[True], seconds[False])}
    if not quiet:
        print(figures, file=sys.stderr)
    return figures


def _loop(pipeline: Any, jobs: int, *, isolated: bool) -> StepLoop:
    """Return a loop with so many pictures in it, past their first step."""
    info, loop = pipeline.info, StepLoop(pipeline, max_batch=jobs)
    shared = ("", 0, 200, info.default_guidance, info.solvers[0], info.width, info.height)
    for number in range(jobs):
        loop.submit(JobSpec(str(number), f"a red circle {number}", *shared, isolated=isolated), time.monotonic())
    loop.tick()
    return loop
