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
    from benchmarks.tiny_model import build_resuming_model

    return build_resuming_model(folder / "tiny", judged_at=None)
