"""How long one state takes to arrive from each place it can be in, against one denoising step."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import crash_world as world
from benchmarks.store_backends import GIB, PICTURE
from cache_store import CacheStore, NoiseState, StateRef, StoreConfig
from service.engine import EngineConfig, make_engine
from service.engine.base import CapturedState, JobFailed, JobResult, JobSpec

STEPS = 8
WARM_UPS = 3
Held = list[tuple[int, StateRef]]


def read_rows(
    folder: Path, sizes: dict[str, Callable[[int], NoiseState]], reads: int, s3_url: str | None
) -> list[dict[str, Any]]:
    """Return one row per size and place: p50 and p99 of `CacheStore.load` in milliseconds."""
    rows = []
    for name, make in sizes.items():
        rows += asyncio.run(_local(folder / name.replace(" ", "-"), name, make, reads))
        if s3_url:
            rows.append(asyncio.run(_remote(folder / f"{name.replace(' ', '-')}-s3", name, make, reads, s3_url)))
    return rows


async def _local(folder: Path, name: str, make: Callable[[int], NoiseState], reads: int) -> list[dict[str, Any]]:
    held = await _fill(folder, make, reads, None)
    rows = []
    store = await CacheStore.open(StoreConfig(folder, ram_bytes=0, timeout_seconds=30.0))
    files = sorted((folder / "objects").rglob("*.safetensors"))
    try:
        rows.append(_row(name, "local disk, warm", await _timed(store, held)))
        rows.append(_row(name, "local disk, cold", await _timed(store, held, lambda: _let_go(files))))
    finally:
        await store.close()
    store = await CacheStore.open(StoreConfig(folder, ram_bytes=GIB, timeout_seconds=30.0))
    try:
        await _timed(store, held)
        return [_row(name, "RAM tier", await _timed(store, held)), *rows]
    finally:
        await store.close()


async def _remote(folder: Path, name: str, make: Callable[[int], NoiseState], reads: int, url: str) -> dict[str, Any]:
    held = await _fill(folder, make, reads, url)
    store = await CacheStore.open(StoreConfig(folder, object_url=url, ram_bytes=0, timeout_seconds=30.0))
    try:
        await _timed(store, held[:WARM_UPS])
        return _row(name, "S3 server on loopback", await _timed(store, held))
    finally:
        await store.close()


async def _fill(folder: Path, make: Callable[[int], NoiseState], count: int, url: str | None) -> Held:
    """Store one state each for `count` entries."""
    config = StoreConfig(folder, object_url=url, byte_budget=8 * GIB, queue_size=count + 1, timeout_seconds=30.0)
    store = await CacheStore.open(config)
    held: Held = []
    try:
        for number in range(1, count + 1):
            state = make(number)
            store.remember(replace(world.entry(number), entry_id=number), [state], PICTURE)
            held.append((number, StateRef(state.log_snr, state.skip, state.prediction is not None)))
        await store.flush()
        if (await store.stats()).states != count:
            raise RuntimeError("not all states were stored")
    finally:
        await store.close()
    return held


async def _timed(store: CacheStore, held: Held, before: Callable[[], None] = lambda: None) -> list[float]:
    """Return the seconds of each load."""
    before()
    seconds = []
    for entry_id, ref in held:
        started = time.perf_counter()
        state = await store.load(entry_id, ref)
        seconds.append(time.perf_counter() - started)
        if state is None:
            raise RuntimeError("a stored state is gone")
    return seconds


def _let_go(files: Sequence[Path]) -> None:
    """Have the kernel forget the files' contents."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only clean pages can be let go of
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _row(size: str, place: str, seconds: Sequence[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"size": size, "place": place, "reads": len(seconds), "p50_ms": p50, "p99_ms": p99}


def step_and_state(model: Path, runs: int) -> tuple[float, CapturedState]:
    """Return the median seconds of one denoising step of a picture drawn alone as served, and a state it captured."""
    return asyncio.run(_step_and_state(model, runs))


async def _step_and_state(model: Path, runs: int) -> tuple[float, CapturedState]:
    engine = make_engine(EngineConfig(model=str(model), kind="local"))
    await engine.start()
    try:
        results = [await _draw(engine, run) for run in range(WARM_UPS + runs)][WARM_UPS:]
    finally:
        await engine.close()
    return statistics.median(result.step_seconds for result in results), results[0].captured[0]


async def _draw(engine: Any, seed: int) -> JobResult:
    info = engine.info
    job = JobSpec(
        f"step-{seed}", "a red ball on a meadow", "", seed, STEPS, info.default_guidance, info.solvers[0],
        info.width, info.height, capture=(0.25,),
    )  # fmt: skip
    async for event in engine.run(job):
        if isinstance(event, JobResult):
            return event
        if isinstance(event, JobFailed):
            raise RuntimeError(f"the picture failed: {event.message}")
    raise RuntimeError("the engine ended without an answer")
