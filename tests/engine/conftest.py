from pathlib import Path

import pytest
import torch
from mix_helpers import tiny_family
from taken_apart import DENOISERS

from benchmarks.tiny_model import build_tiny_model
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


@pytest.fixture(scope="session")
def made():
    """Makes and keeps a denoiser of `taken_apart.DENOISERS` and its inputs, by name."""
    kept = {}

    def make(name):
        if name not in kept:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                denoiser, inputs = DENOISERS[name]()
                kept[name] = (denoiser.eval(), inputs)
        return kept[name]

    return make


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """Loads and keeps a family's tiny model, by name."""
    kept = {}

    def load(name):
        if name not in kept:
            kept[name] = tiny_family(name, tmp_path_factory.mktemp("family"))
        return kept[name]

    return load
