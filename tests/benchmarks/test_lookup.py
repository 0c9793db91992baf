import asyncio
from pathlib import Path

import numpy as np
import pytest

from benchmarks import lookup
from benchmarks.lookup_data import Rows, Source
from benchmarks.lookup_plot import draw
from benchmarks.lookup_store import measure_store
from benchmarks.lookup_table import lookup_table


@pytest.fixture(scope="module")
def real() -> Rows:
    rng = np.random.default_rng(0)
    topics = np.repeat(rng.normal(size=(40, lookup.DIMENSIONS)), 5, axis=0)
    rows = topics + 0.5 * rng.normal(size=topics.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.timeout(180)
def test_all_parts_run_on_a_small_store(real: Rows, tmp_path: Path) -> None:
    row = asyncio.run(lookup.measure_size(Source(real, 1), 6000, queries=60))
    assert row["recall"] > 0.8
    assert row["recall_similar"] >= row["recall"]
    assert row["similarity_error_max"] < 0.01
    assert row["training"]["count"] > 0
    assert row["shelf_bytes_per_entry"] < 1000
    many = asyncio.run(lookup.measure_partitions(Source(real, 2), 500, 20))
    store = asyncio.run(measure_store(Source(real, 3), 60))
    assert store["events_per_s"] > 0
    report = {
        "sizes": [row],
        "partitions": many,
        "crossover": lookup.crossover(Source(real, 4), (200,)),
        "store": store,
        "data": {"prompts": len(real), "origin": "a test", "synthetic": True},
        "settings": {"rate": lookup.RATE, "limit": lookup.LIMIT, "flat_limit": 4096, "probes": 24},
    }
    assert any("6,000" in line for line in lookup_table(report))
    draw(report, tmp_path / "lookup.png")
    assert (tmp_path / "lookup.png").stat().st_size > 0


def test_queries_are_not_stored_but_resemble_what_is(real: Rows) -> None:
    source = Source(real, 5)
    stored = source.sessions(500)
    asked = source.queries(stored, 100)
    nearest = (asked @ stored.T).max(1)
    assert np.allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)
    assert nearest.max() < 0.99999
    assert np.median(nearest) > 0.75
