"""What the tests of several rooms share: one real server, on a tiny model with random weights."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers and the servers they start share the cores: without this each would start a thread for every core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no bug: time limits are pytest's.
hypothesis.settings.register_profile("headstart", deadline=None)
hypothesis.settings.load_profile("headstart")

HERE = Path(__file__).parent
for room in ("engine", "service", "page", "chaos"):
    sys.path.append(str(HERE / room))

from service_live import Client, LiveServer, live  # noqa: E402

SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.fixture(scope="session")
def resuming_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, and a threshold table that resumes anything similar."""
    return _tiny_model(tmp_path_factory.mktemp("resuming-model"))


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`headstart serve` in a process of its own, willing to resume anything similar."""
    folder = tmp_path_factory.mktemp("live-service")
    (folder / "loras").mkdir()
    with live(folder, model=str(_tiny_model(folder)), lora_dir=str(folder / "loras"), threads="1") as running:
        yield running


@pytest.fixture(scope="session")
def live_client(live_service: LiveServer) -> Iterator[Client]:
    client = Client(live_service)
    yield client
    client.http.close()


def _tiny_model(folder: Path) -> Path:
    from engine_helpers import build_tiny_model

    from policies.matching import ThresholdRow, ThresholdTable
    from service.embedder import packaged_model, verified_digest
    from service.engine.loading import load_pipeline

    model = build_tiny_model(folder / "tiny")
    info = load_pipeline(str(model), "cpu", "float32").info
    key = {
        "weights_digest": info.weights_digest,
        "embedder_digest": verified_digest(packaged_model()),
        "schedule": info.schedule,
    }
    rows = tuple(ThresholdRow(skip, min_similarity=0.6, max_divergence=100.0) for skip in SKIPS)
    ThresholdTable(rows, key).save(model / "matching.json")
    return model
