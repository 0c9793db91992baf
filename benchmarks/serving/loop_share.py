"""What a saturated engine does outside the networks: shares of the wall time, and the dearest functions."""

import cProfile
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.n_star import held_out
from service.engine.base import ImageArray, JobFailed, JobSpec, Pipeline
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop

MODELS = Path("models")
BATCHES = (1, 8, 32)
QUICK_BATCHES = (1, 8)
SOLVER = "ddim"
LEAST_PICTURES = 4
"""Pictures a share is taken over, at least."""
PROFILED_BATCH = 8
DEAREST = 3
Kind = Literal["network", "decoder"]
Made = TypeVar("Made")


class Timed:
    """A `Pipeline` that notes when its networks ran, and is otherwise the one it wraps.

    Args:
        pipeline: the loaded model.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.spans: list[tuple[Kind, float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def predict(self, *arguments: Any, **named: Any) -> Tensor:
        """Return the pipeline's prediction."""
        return self._noted("network", lambda: self._pipeline.predict(*arguments, **named))

    def decode(self, *arguments: Any, **named: Any) -> ImageArray:
        """Return the pipeline's pictures."""
        return self._noted("decoder", lambda: self._pipeline.decode(*arguments, **named))

    def _noted(self, kind: Kind, work: Callable[[], Made]) -> Made:
        started = time.perf_counter()
        made = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.spans.append((kind, started, time.perf_counter()))
        return made


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the wall time of a saturated engine.

    Attributes:
        network: inside forwards of the denoiser.
        decoder: inside the VAE's.
        outside: inside neither.
    """

    network: float
    decoder: float
    outside: float

    @classmethod
    def of(cls, spans: Sequence[tuple[Kind, float, float]], seconds: float) -> "Shares":
        """Divide `seconds` of wall time; moments when both networks run count once."""
        either = covered([(start, end) for _, start, end in spans])
        network = covered([(start, end) for kind, start, end in spans if kind == "network"])
        decoder = covered([(start, end) for kind, start, end in spans if kind == "decoder"])
        return cls(network / seconds, decoder / seconds, 1 - either / seconds)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasts."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def shipped_models() -> list[Path]:
    """Return the folders of every model under models/ that the engine can load."""
    return sorted(index.parent for index in MODELS.glob("*/model_index.json"))


def measure_shares(dtype: str, steps: int, *, quick: bool, quiet: bool) -> dict[str, Any]:
    """Return shares per model and batch, and the dearest functions per model."""
    batches = QUICK_BATCHES if quick else BATCHES
    models = shipped_models()
    report: dict[str, Any] = {}
    with tqdm(total=len(models) * (len(batches) + 1), desc="loop", disable=quiet, leave=False) as bar:
        for model in models:
            pipeline = load_pipeline(str(model), dtype=dtype)
            rows = []
            for batch in batches:
                rows.append(_row(pipeline, batch, steps))
                bar.update()
            report[model.name] = {"batches": rows, "dearest": dearest(pipeline, PROFILED_BATCH, steps)}
            bar.update()
    return report


def _row(pipeline: Pipeline, batch: int, steps: int) -> dict[str, float]:
    timed = Timed(pipeline)
    loop = StepLoop(cast(Pipeline, timed), max_batch=batch)
    _drive(loop, _specs(pipeline, batch, 2, "warm"))
    timed.spans.clear()
    pictures = max(batch, LEAST_PICTURES)
    started = time.perf_counter()
    _drive(loop, _specs(pipeline, pictures, steps, "timed"))
    seconds = time.perf_counter() - started
    shares = Shares.of(timed.spans, seconds)
    return {
        "batch": batch,
        "pictures": pictures,
        "network": shares.network,
        "decoder": shares.decoder,
        "outside": shares.outside,
        "outside_network": 1 - shares.network,
        "step_ms_outside": 1000 * shares.outside * seconds * batch / (pictures * steps),
        "step_ms": 1000 * seconds * batch / (pictures * steps),
    }


def _specs(pipeline: Pipeline, pictures: int, steps: int, tag: str) -> list[JobSpec]:
    info = pipeline.info
    solver = SOLVER if SOLVER in info.solvers else info.solvers[0]
    return [
        JobSpec(f"{tag}-{n}", one.text, "", n, steps, info.default_guidance, solver, info.width, info.height)
        for n, one in enumerate(held_out(pictures))
    ]


def _drive(loop: StepLoop, specs: Sequence[JobSpec]) -> None:
    for spec in specs:
        loop.submit(spec, time.monotonic())
    while not loop.idle:
        for event in loop.tick():
            if isinstance(event, JobFailed):
                raise RuntimeError(f"job {event.job_id} failed: {event.code}: {event.message}")


def _tick(loop: StepLoop, times: int) -> None:
    for _ in range(times):
        loop.tick()


def dearest(pipeline: Pipeline, batch: int, steps: int) -> list[dict[str, Any]]:
    """Name the costliest functions of the engine outside the networks.

    Time in libraries counts for the engine's function that called them. The profiler slows Python calls, so only
    shares of what lies outside are given.
    """
    timed = Timed(pipeline)
    loop = StepLoop(cast(Pipeline, timed), max_batch=batch)
    specs = _specs(pipeline, batch, steps, "profiled")
    profile = cProfile.Profile()
    for spec in specs:
        loop.submit(spec, time.monotonic())
    # All but the last step, after which the loop has nothing to do but wait for the decoder.
    profile.runcall(_tick, loop, steps - 1)
    _drive(loop, [])
    costs = own_costs(pstats.Stats(profile))
    total = sum(costs.values())
    largest = sorted(costs.items(), key=lambda item: -item[1])[:DEAREST]
    return [{"function": name, "share_of_outside": seconds / total} for name, seconds in largest]


def own_costs(stats: pstats.Stats) -> dict[str, float]:
    """Seconds per function of the engine, its own and those of the libraries it calls."""
    table: dict[tuple[str, int, str], Any] = cast(Any, stats).stats
    costs: dict[str, float] = {}
    for place, (_, _, own, _, callers) in table.items():
        if (name := _engine_name(place)) is not None:
            costs[name] = costs.get(name, 0.0) + own
            continue
        for caller, (_, _, _, inclusive) in callers.items():
            if not _of_networks(place) and (name := _engine_name(caller)) is not None:
                costs[name] = costs.get(name, 0.0) + inclusive
    return costs


def _engine_name(place: tuple[str, int, str]) -> str | None:
    """E.g. "loop.py: _settle"; None for what is not the engine's, or is part of running a network."""
    path = Path(place[0])
    if path.parent.name != "engine" or path.parent.parent.name != "service":
        return None
    return f"{path.name}: {place[2]}"


def _of_networks(place: tuple[str, int, str]) -> bool:
    return place[2] in ("predict", "decode") and Path(place[0]) == Path(__file__)
