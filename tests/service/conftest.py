from pathlib import Path

import pytest
from service_live import Client, LiveServer

from benchmarks.tiny_model import build_tiny_model
from policies.matching import ThresholdRow, ThresholdTable
from service.embedder import packaged_model, verified_digest
from service.engine.loading import load_pipeline

SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.fixture
def server(live_service: LiveServer) -> LiveServer:
    return live_service


@pytest.fixture
def client(live_client: Client) -> Client:
    return live_client


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model for parts in this process; a threshold table is not beside it."""
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def table_key(tiny_model: Path) -> dict[str, str]:
    info = load_pipeline(str(tiny_model), "cpu", "float32").info
    return {
        "weights_digest": info.weights_digest,
        "embedder_digest": verified_digest(packaged_model()),
        "schedule": info.schedule,
    }


@pytest.fixture(scope="session")
def tables(table_key: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Threshold tables: one that resumes anything, one whose gate refuses all but repeats, one for another model,
    one for its weights quantised."""
    folder = tmp_path_factory.mktemp("tables")
    other = {**table_key, "weights_digest": "another model"}
    short = {**table_key, "dtype": "float32+int8"}
    kinds = (
        ("loose", table_key, 100.0),
        ("strict", table_key, 1e-4),
        ("foreign", other, 100.0),
        ("int8", short, 100.0),
    )
    for name, key, bound in kinds:
        rows = tuple(ThresholdRow(skip, min_similarity=0.6, max_divergence=bound) for skip in SKIPS)
        ThresholdTable(rows, key).save(folder / f"{name}.json")
        if name == "loose":
            ThresholdTable(rows, key, judged_at=SKIPS[0]).save(folder / "early.json")
    return folder
