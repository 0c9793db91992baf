"""The model or the embedder is swapped under a cache that stays: nothing of before is used, and it says why."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from service_samples import request

from policies.matching import ThresholdRow, ThresholdTable
from service import assembly
from service.assembly import Service, open_service
from service.embedder import Embedder, Vector, packaged_model, verified_digest
from service.engine.loading import load_pipeline
from service.generator import Wish
from service.metrics import Metrics
from service.settings import Settings
from service.types import Verdict, VerdictKind

Opener = Callable[[], AbstractAsyncContextManager[Service]]
TEXT, REWORDED, ONCE_MORE = "a red cube on a table", "a red cube on the table", "a red cube on this table"


class OtherEmbedder(Embedder):
    """Another embedding space: the same model's vectors, turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = "another embedder"

    def embed_now(self, prompt: str) -> Vector:
        return np.ascontiguousarray(super().embed_now(prompt)[::-1])


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that this test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


@pytest.fixture
def opened(model: Path, tmp_path: Path) -> Opener:
    """Opens the service on one data folder, again and again."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[Service]:
        settings = Settings(model=str(model), engine="local", store_timeout_seconds=20, data_dir=tmp_path / "data")
        async with open_service(settings, Metrics()) as service:
            yield service

    return opener


async def draw(service: Service, text: str, name: str, **changes: object) -> Verdict:
    wanted = replace(request(text, **changes), request_id=name)
    picture = await service.generator.generate(wanted, Wish())
    await service.memory.flush()
    return picture.verdict


def calibrate(model: Path, embedder_digest: str) -> None:
    """A table for these weights and that embedder, which resumes anything similar."""
    info = load_pipeline(str(model), "cpu", "float32").info
    key = {"weights_digest": info.weights_digest, "embedder_digest": embedder_digest, "schedule": info.schedule}
    rows = (ThresholdRow(0.25, min_similarity=0.6, max_divergence=100.0),)
    ThresholdTable(rows, key).save(model / "matching.json")


async def remember(opened: Opener) -> None:
    async with opened() as service:
        assert (await draw(service, TEXT, "first")).kind is VerdictKind.MISS
        assert (await draw(service, REWORDED, "hit")).kind is VerdictKind.APPROX


async def closes_then_begins_anew(opened: Opener, calibrate_again: Callable[[], None]) -> None:
    """After a swap: uncalibrated; with a table made for the new parts: an empty cache, then hits of its own."""
    async with opened() as service:
        assert (await draw(service, REWORDED, "closed")).reason == "uncalibrated"
    calibrate_again()
    async with opened() as service:
        # What was drawn since the swap is remembered, so a text of its own tells what of before is left.
        seen = await draw(service, ONCE_MORE, "own")
        assert seen.kind is VerdictKind.APPROX
        assert seen.source_prompt == REWORDED


async def test_another_models_states_are_never_resumed_from(opened: Opener, model: Path) -> None:
    digest = verified_digest(packaged_model())
    calibrate(model, digest)
    await remember(opened)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(
            {name: value + 1e-3 * torch.randn_like(value) for name, value in load_file(weights).items()}, weights
        )
    async with opened() as service:
        assert (
            await draw(service, TEXT, "same")
        ).kind is VerdictKind.MISS  # same text, same seed: not the old picture
        assert (await service.store.stats()).entries >= 3
    await closes_then_begins_anew(opened, lambda: calibrate(model, digest))


async def test_vectors_of_another_embedder_are_never_compared(
    opened: Opener, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(model, verified_digest(packaged_model()))
    await remember(opened)
    monkeypatch.setattr(assembly, "Embedder", OtherEmbedder)
    await closes_then_begins_anew(opened, lambda: calibrate(model, "another embedder"))
