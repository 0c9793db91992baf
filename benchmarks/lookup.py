"""How long does a lookup take, and how often does it find the nearest prompt, as the store grows?

Vectors are synthetic: see `benchmarks.lookup_data`. At each size the index grows as in service (a partition's shelf
is made anew whenever that is due), then answers one query after another: at rest, while vectors are added and deleted
at a stated rate, and while its lists are trained again. Recall: how often the true nearest vector, found by comparing
with all, is among those returned; the store scores these few again exactly, from the embeddings in its catalogue,
so it is the first one (`recall_unscored`: how often it is the first without that). Beside it: FAISS's exact index
and its HNSW graph, which cannot delete, on the same vectors. All single-threaded. The figures are the index's own,
thread hop included; `store` is the whole search, Redis included.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.lookup_data import Rows, Source, embedded, prompts
from benchmarks.lookup_store import measure_store
from cache_store.index import Growth, IndexThread, PartitionedIndex, Reshelver, Workshop
from cache_store.index.ivf import IvfShelf
from cache_store.index.partitioned import FLAT_LIMIT, PROBES
from cache_store.index.snapshot import Origin, save
from cache_store.searching import SPARE_NEIGHBOURS

DIMENSIONS = 384
LIMIT = 8 + SPARE_NEIGHBOURS
SIMILAR = 0.85
RATE = 50
"""Adds a second, and as many deletes, while searches are timed."""
_CHUNK = 500
_ADD = 10
_CROSSOVER = (1000, 2000, 4000, 8000, 16_000, 32_000)
_LOADER = """
import sys, time, pathlib
from cache_store.index.snapshot import load
import psutil
before, started = psutil.Process().memory_info().rss, time.perf_counter()
index, _ = load(pathlib.Path(sys.argv[1]))
print(time.perf_counter() - started, psutil.Process().memory_info().rss - before, len(index))
"""


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` stops at 1e5 entries and embeds fewer prompts."""
    faiss.omp_set_num_threads(1)
    texts, origin = prompts(1200 if quick else 8000)
    real = embedded(texts)
    sizes = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    rows = []
    for size in sizes:
        rows.append(
            asyncio.run(
                measure_size(
                    Source(real, seed=size), size, queries=300 if quick else 1000, graph=10_000 if quick else 100_000
                )
            )
        )
        if not quiet:
            print(rows[-1], file=sys.stderr)
    many = asyncio.run(measure_partitions(Source(real, seed=7), 50_000 if quick else 500_000, 1000))
    return {
        "headline": _headline(rows),
        "largest": sizes[-1],
        "sizes": rows,
        "partitions": many,
        "crossover": crossover(Source(real, seed=11), _CROSSOVER[:4] if quick else _CROSSOVER),
        "store": asyncio.run(measure_store(Source(real, seed=13), 5000 if quick else 50_000)),
        "data": {"prompts": len(texts), "origin": origin, "synthetic": True},
        "settings": {"rate": RATE, "limit": LIMIT, "flat_limit": FLAT_LIMIT, "probes": PROBES},
    }


def _headline(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the figures by size; those of a million are None where a quick run had none."""
    by_size = {row["n"]: row for row in rows}
    million, smaller = by_size.get(1_000_000), by_size[100_000]
    return {
        "p99_ms_1e6": million["live"]["p99_ms"] if million else None,
        "recall_1e6": million["recall"] if million else None,
        "recall_similar_1e6": million["recall_similar"] if million else None,
        "bytes_per_entry": rows[-1]["bytes_per_entry"],
        "p99_ms_1e5": smaller["live"]["p99_ms"],
        "recall_1e5": smaller["recall"],
    }


class Bench:
    """An index with its threads, and the truth beside it."""

    def __init__(self, growth: Growth | None = None) -> None:
        self.index = PartitionedIndex(growth)
        self.thread, self.workshop = IndexThread(), Workshop()
        self.reshelver = Reshelver(self.thread, self.workshop)
        self.training: list[float] = []

    async def grow(self, partition: str, ids: np.ndarray[Any, Any], rows: Rows) -> None:
        """Add vectors, making the shelf anew whenever that is due."""
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK].tolist()
            await self.thread.run(self.index.add, partition, some, rows[start : start + _CHUNK])
            await self.settle()

    async def settle(self) -> None:
        """Make the shelves that are due."""
        started = time.perf_counter()
        if await self.reshelver.run(self.index):
            self.training.append(time.perf_counter() - started)

    async def timed(self, partitions: list[str], queries: Rows) -> list[float]:
        """Search for each query; return the milliseconds each took."""
        taken = []
        for partition, query in zip(partitions, queries, strict=True):
            started = time.perf_counter()
            await self.thread.search(self.index.search, partition, query, LIMIT)
            taken.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.001)
        return taken

    def close(self) -> None:
        """End the threads."""
        self.thread.close()
        self.workshop.close()


async def measure_size(source: Source, size: int, *, queries: int, graph: int = 10_000) -> dict[str, Any]:
    """One partition of `size` vectors: latency, recall, memory, training, loading; HNSW beside it up to `graph`."""
    stored = source.sessions(size)
    asked = source.queries(stored, queries)
    bench = Bench()
    started = time.perf_counter()
    await bench.grow("a", np.arange(1, size + 1), stored)
    grown = time.perf_counter() - started
    still = await bench.timed(["a"] * queries, asked)
    truth = _truth(stored, asked)
    row: dict[str, Any] = {"n": size, "grown_s": grown, "last_training_s": (bench.training or [0.0])[-1]}
    row |= _recall(bench.index, stored, asked, truth)
    row["still"] = _spread(still)
    row["live"] = _spread(await _while_changing(bench, source, stored, asked))
    row["training"] = _spread(await _while_training(bench, asked))
    row |= await _reload(bench)
    row["shelf_bytes_per_entry"] = bench.index.nbytes / len(bench.index)
    row |= _references(stored, asked, truth, graph_limit=graph)
    row["sweep"] = _sweep(bench.index, asked, truth)
    bench.close()
    return row


async def _while_changing(bench: Bench, source: Source, stored: Rows, asked: Rows) -> list[float]:
    """Time searches while vectors are deleted and added, the same number of each."""
    stop = asyncio.Event()
    fresh = source.edits(stored[:2000])
    task = asyncio.create_task(_change(bench, fresh, len(stored), stop))
    taken = await bench.timed(["a"] * len(asked), asked)
    stop.set()
    await task
    return taken


async def _change(bench: Bench, fresh: Rows, size: int, stop: asyncio.Event) -> None:
    turn = 0
    while not stop.is_set():
        at = turn * _ADD % (len(fresh) - _ADD)
        first = size + 1 + turn * _ADD
        new, old = list(range(first, first + _ADD)), list(range(first - _ADD, first))
        await bench.thread.run(bench.index.add, "a", new, fresh[at : at + _ADD])
        await bench.thread.run(bench.index.remove, old if turn else [])
        turn += 1
        await asyncio.sleep(_ADD / RATE)


async def _while_training(bench: Bench, asked: Rows) -> list[float]:
    """Time searches while the partition's shelf is made anew."""
    bench.index.want("a")
    task = asyncio.create_task(bench.reshelver.run(bench.index))
    taken: list[float] = []
    while not task.done():
        taken += await bench.timed(["a"] * 20, asked[:20])
    await task
    return taken


async def _reload(bench: Bench) -> dict[str, float]:
    """Write a snapshot, load it in a fresh process: seconds, bytes on disk, memory an entry."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.snapshot"
        started = time.perf_counter()
        await save(bench.index, Origin("x", 1, "1"), path, thread=bench.thread, workshop=bench.workshop)
        saved = time.perf_counter() - started
        command = [sys.executable, "-c", _LOADER, str(path)]
        answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        seconds, nbytes, count = answer.stdout.split()
        return {
            "save_s": saved,
            "load_s": float(seconds),
            "bytes_per_entry": float(nbytes) / int(count),
            "snapshot_bytes_per_entry": path.stat().st_size / int(count),
        }


async def measure_partitions(source: Source, size: int, count: int) -> dict[str, Any]:
    """Many partitions of very unequal size (Zipf), searched as often as they are large."""
    shares = 1 / np.arange(1, count + 1)
    sizes = np.maximum(1, (size * shares / shares.sum()).astype(int))
    bench, stored = Bench(), source.sessions(int(sizes.sum()))
    first = np.concatenate([[0], np.cumsum(sizes)])
    for number in range(count):
        part = slice(int(first[number]), int(first[number + 1]))
        await bench.grow(str(number), np.arange(part.start + 1, part.stop + 1), stored[part])
    places = np.random.default_rng(3).integers(len(stored), size=1000)
    homes = [str(int(np.searchsorted(first, place, "right")) - 1) for place in places]
    taken = await bench.timed(homes, source.edits(stored[places]))
    bench.close()
    return {"n": len(stored), "partitions": count, "largest": int(sizes[0]), **_spread(taken)}


def crossover(source: Source, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Compare a flat shelf with trained lists at small sizes: milliseconds a search."""
    rows = []
    for size in sizes:
        stored = source.sessions(size)
        asked = source.queries(stored, 200)
        row: dict[str, float] = {"n": size}
        for name, limit in (("flat_ms", size), ("ivf_ms", 0)):
            bench = Bench(Growth(flat_limit=limit))
            bench.index.add("a", list(range(1, size + 1)), stored)
            asyncio.run(bench.settle())
            row[name] = _spread(_each(asked, partial(_search, bench.index)))["p50_ms"]
            bench.close()
        rows.append(row)
    return rows


def _search(index: PartitionedIndex, query: Rows) -> list[tuple[int, float]]:
    return index.search("a", query, LIMIT)


def _truth(stored: Rows, asked: Rows) -> np.ndarray[Any, Any]:
    """Return (similarity, position) of the true nearest vector of each query."""
    scores, places = faiss.knn(asked, stored, 1, metric=faiss.METRIC_INNER_PRODUCT)
    return np.stack([scores[:, 0], places[:, 0]])


def _recall(index: PartitionedIndex, stored: Rows, asked: Rows, truth: np.ndarray[Any, Any]) -> dict[str, float]:
    found = [index.search("a", query, LIMIT) for query in asked]
    places, scores = truth[1].astype(int), truth[0]
    hit = np.array([place + 1 in [i for i, _ in some] for place, some in zip(places, found, strict=True)])
    first = np.array([bool(some) and some[0][0] == place + 1 for place, some in zip(places, found, strict=True)])
    errors = [abs(float(stored[i - 1] @ q) - s) for q, some in zip(asked, found, strict=True) for i, s in some]
    similar = scores >= SIMILAR
    return {
        "recall": float(hit.mean()),
        "recall_similar": float(hit[similar].mean()),
        "share_similar": float(similar.mean()),
        "recall_unscored": float(first.mean()),
        "similarity_error_max": max(errors),
    }


def _sweep(index: PartitionedIndex, asked: Rows, truth: np.ndarray[Any, Any]) -> list[dict[str, float]]:
    """Latency and recall over the number of lists looked into; after everything else, as it changes the shelf."""
    shelf = index.shelf("a")
    rows = []
    for probes in (4, 8, 12, 16, 32, 64):
        if not isinstance(shelf, IvfShelf):
            break
        shelf.probe(probes)
        found = [[i for i, _ in index.search("a", query, LIMIT)] for query in asked]
        hit = [int(place) + 1 in some for place, some in zip(truth[1], found, strict=True)]
        taken = _each(asked, partial(_search, index))
        rows.append({"probes": probes, "recall": float(np.mean(hit)), **_spread(taken)})
    return rows


def _references(stored: Rows, asked: Rows, truth: np.ndarray[Any, Any], *, graph_limit: int) -> dict[str, Any]:
    """FAISS's exact index and, where building it is cheap, its graph."""
    flat = faiss.IndexFlatIP(DIMENSIONS)
    flat.add(stored)
    found = {"exact": _spread(_each(asked[:50], partial(_ask, flat)))}
    if len(stored) <= graph_limit:
        graph = faiss.IndexHNSWFlat(DIMENSIONS, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 80, 64
        graph.add(stored)
        taken = _each(asked, partial(_ask, graph))
        near = graph.search(asked, LIMIT)[1]
        hit = [place in some for place, some in zip(truth[1].astype(int), near, strict=True)]
        found["hnsw"] = {**_spread(taken), "recall": float(np.mean(hit))}
    return found


def _ask(index: Any, query: Rows) -> Any:
    return index.search(query[np.newaxis], LIMIT)


def _each(asked: Rows, search: Callable[[Rows], Any]) -> list[float]:
    taken = []
    for query in asked:
        started = time.perf_counter()
        search(query)
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def _spread(taken: list[float]) -> dict[str, float]:
    if not taken:
        return {"p50_ms": float("nan"), "p99_ms": float("nan"), "count": 0}
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "count": len(taken)}
