import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "engine"))

from engine_helpers import build_tiny_model
from service_live import Client, LiveServer, live

from policies.matching import ThresholdRow, ThresholdTable
from service.embedder import packaged_model, verified_digest
from service.engine.loading import load_pipeline

SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5)


def write_table(path: Path, model: Path, *, min_similarity: float = 0.6, max_divergence: float = 100.0) -> Path:
    """Write a threshold table for exactly this model; loose enough to resume anything."""
    info = load_pipeline(str(model), "cpu", "float32").info
    key = {
        "weights_digest": info.weights_digest,
        "embedder_digest": verified_digest(packaged_model()),
        "schedule": info.schedule,
    }
    rows = tuple(ThresholdRow(skip, min_similarity, max_divergence) for skip in SKIPS)
    ThresholdTable(rows, key).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model with a loose threshold table beside it."""
    folder = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    write_table(folder / "matching.json", folder)
    return folder


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live(tmp_path_factory.mktemp("server"), model=str(tiny_model), threads="1") as running:
        yield running


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.http.close()
