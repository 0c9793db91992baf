"""The whole `CacheStore.search`, Redis included, and how fast a replica catches up."""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lookup_data import Rows, Source
from cache_store import CacheEntry, CacheStore, Signature, StoreConfig, StoredImage
from cache_store.records import StateRecord

SIGNATURE = Signature(
    tenant="bench",
    model_id="m",
    weights_digest="w",
    embedder_digest="e",
    width=512,
    height=512,
    prediction_type="epsilon",
    schedule="s",
    guidance_band="7",
    negative_prompt_hash="",
)
_STATES = (0.1, 0.2, 0.3, 0.4, 0.5)


async def measure_store(source: Source, size: int) -> dict[str, Any]:
    """Fill a catalogue with `size` entries (records only, no bytes of states), follow, search."""
    stored = source.sessions(size)
    asked = source.queries(stored, 500)
    with tempfile.TemporaryDirectory() as folder:
        store = await CacheStore.open(StoreConfig(Path(folder), timeout_seconds=10.0, byte_budget=2**50))
        try:
            await _fill(store, stored)
            started = time.perf_counter()
            caught = 0
            while events := await store._follower.catch_up():
                caught += events
            seconds = time.perf_counter() - started
            await store._replica.tend(store._follower._mark)
            taken = [await _one(store, query) for query in asked]
        finally:
            await store.close()
    p50, p99 = np.percentile(taken, [50, 99])
    return {"n": size, "p50_ms": float(p50), "p99_ms": float(p99), "events_per_s": caught / max(seconds, 1e-9)}


async def _one(store: CacheStore, query: Rows) -> float:
    started = time.perf_counter()
    await store.search(SIGNATURE, query)
    return 1000 * (time.perf_counter() - started)


async def _fill(store: CacheStore, stored: Rows) -> None:
    for task in store._follower._tasks:  # catching up is timed by itself
        task.cancel()
    catalogue, image = store._parts.catalogue, StoredImage(b"", 0, 0)
    for number, row in enumerate(stored):
        text = f"prompt number {number}"
        async with store._parts.redis():
            entry_id, now = await catalogue.new_id(), await catalogue.tick()
            records = [_record(entry_id, skip, now) for skip in _STATES]
            digest = hashlib.sha256(text.encode()).hexdigest()
            facts = (entry_id, SIGNATURE, text, digest, row, number, 50, digest, float(number), 0, 1.0)
            await catalogue.commit(CacheEntry(*facts), records, image, now)


def _record(entry_id: int, skip: float, now: int) -> StateRecord:
    log_snr = 10 * skip - 5
    return StateRecord(log_snr, skip, True, 1000, now, f"{now:016d}:{entry_id}:{round(log_snr * 1000)}")
