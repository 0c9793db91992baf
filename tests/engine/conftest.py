from pathlib import Path

import pytest
import torch
from engine_helpers import build_tiny_model

from service.engine.loading import load_pipeline


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def pipeline(tiny_model: Path):
    return load_pipeline(str(tiny_model), "cpu", "float32")


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    torch.set_num_threads(1)
