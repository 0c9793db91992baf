"""Memory, descriptors and threads of the service's processes while it is soaked, and whether they grow."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import psutil
from scipy.stats import linregress, t

from benchmarks.live import Running
from benchmarks.soak_faults import ENGINE, REDIS, child_of

PARTS = ("api", "engine", "redis")
MEASURES = ("rss_kb", "descriptors", "threads")
SERIES_POINTS = 240
BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the processes; a part that was away is missing.

    Attributes:
        finished: requests that had ended.
        seconds: since the first sample.
        entries: remembered generations, -1 while the catalogue is away.
        parts: measures by part, its process id among them.
    """

    finished: int
    seconds: float
    entries: int
    parts: dict[str, dict[str, int]]


async def watch(
    running: Running, client: httpx.AsyncClient, finished: Callable[[], int], every: float, samples: list[Sample]
) -> None:
    """Append a sample every so many seconds until cancelled."""
    started = time.monotonic()
    while True:
        cache = (await client.get("/v1/stats")).json()["cache"]
        found = {part: measure(process) for part, process in processes(running).items()}
        parts = {part: figures for part, figures in found.items() if figures is not None}
        samples.append(Sample(finished(), time.monotonic() - started, cache.get("entries", -1), parts))
        await asyncio.sleep(every)


def processes(running: Running) -> dict[str, psutil.Process]:
    """Return the service's processes by part; one that is away is missing."""
    found = {"api": psutil.Process(running.process.pid)}
    for part, name in (("engine", ENGINE), ("redis", REDIS)):
        if (process := child_of(running, name)) is not None:
            found[part] = process
    return found


def measure(process: psutil.Process) -> dict[str, int] | None:
    """Return a process's resident memory, open descriptors and threads; None if it has just gone."""
    try:
        return {
            "pid": process.pid,
            "rss_kb": process.memory_info().rss // 1024,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
        }
    except psutil.Error:
        return None


def growth(samples: Sequence[Sample], requests: int) -> dict[str, dict[str, Any]]:
    """Return for every part and measure its slope per 1000 requests over the second half of the run."""
    return {part: {name: _growth(samples, requests, part, name) for name in MEASURES} for part in PARTS}


def _growth(samples: Sequence[Sample], requests: int, part: str, name: str) -> dict[str, float]:
    late = [s for s in samples if s.finished >= requests / 2 and part in s.parts]
    # A process that was replaced starts from little: only the last one's own growth counts.
    late = [s for s in late if s.parts[part]["pid"] == late[-1].parts[part]["pid"]]
    values = [float(s.parts[part][name]) for s in late]
    fit = slope([s.finished / 1000 for s in late], values)
    return fit | ({"first": values[0], "last": values[-1], "most": max(values)} if values else {})


def slope(x: Sequence[float], y: Sequence[float], blocks: int = BLOCKS) -> dict[str, float]:
    """Least-squares slope with a 95 % interval, from means of consecutive blocks.

    Neighbouring samples of memory are anything but independent; taken singly they would make the interval far too
    narrow.
    """
    if len(x) < 3 or len(set(x)) < 3:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": len(x)}
    parts = np.array_split(np.arange(len(x)), min(blocks, len(x)))
    centres = [float(np.mean([x[row] for row in rows])) for rows in parts]
    means = [float(np.mean([y[row] for row in rows])) for rows in parts]
    fit = linregress(centres, means)
    reach = float(t.ppf(0.975, len(parts) - 2)) * float(fit.stderr)
    value = float(fit.slope)
    return {"value": value, "low": value - reach, "high": value + reach, "n": len(x)}


def series(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Thin the samples for the report and the plot."""
    picks = np.unique(np.linspace(0, len(samples) - 1, min(SERIES_POINTS, len(samples))).astype(int))
    return [_row(samples[pick]) for pick in picks]


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"finished": sample.finished, "seconds": round(sample.seconds, 1)}
    return row | {"entries": sample.entries} | sample.parts
