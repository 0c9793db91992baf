"""A service of which everything can be watched: priced, with tenants by name, and a judge that audits its hits."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_live import Client, LiveServer, live

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def watched_service(tmp_path_factory: pytest.TempPathFactory, resuming_model: Path) -> Iterator[LiveServer]:
    settings = {"judge": "ops_judge:even", "audit_share": "1", "metric_tenants": "default,acme", "threads": "1"}
    price = {"gpu_price_per_hour": "2.5", "gpu_currency": "EUR", "gpu_watts": "400"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH", "")))))
        with live(tmp_path_factory.mktemp("watched"), model=str(resuming_model), **settings, **price) as running:
            yield running


@pytest.fixture(scope="session")
def watched_client(watched_service: LiveServer) -> Iterator[Client]:
    client = Client(watched_service)
    yield client
    client.http.close()
