"""Builds the nouns the store's tests are about."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache_store import CacheEntry, NoiseState, Signature, StoredImage


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


def append_only_file(data_dir: Path) -> Path:
    """Return the file to which the private Redis appends."""
    old = data_dir / "redis" / "appendonly.aof"  # Redis 6
    return old if old.exists() else max((data_dir / "redis" / "appendonlydir").glob("*.incr.aof"))


class Make:
    """Builds the nouns of the tests."""

    signature = Signature(
        tenant="anna",
        model_id="scenes",
        weights_digest="w",
        embedder_digest="e",
        width=128,
        height=128,
        prediction_type="v_prediction",
        schedule="s",
        guidance_band="2",
        negative_prompt_hash="",
    )
    image = StoredImage(b"\x89PNG not really", 128, 128)
    levels = (0.1, 0.2, 0.3, 0.4, 0.5)

    def vector(self, seed: int, size: int = 16) -> np.ndarray:
        vector = np.random.default_rng(seed).normal(size=size).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def state(self, seed: int, skip: float, *, size: int = 8, prediction: bool = True) -> NoiseState:
        noise = np.random.default_rng(seed).normal(size=(4, size, size)).astype(np.float16)
        return NoiseState(
            latent=noise,
            log_snr=10 * skip - 5,
            timestep=900 - 800 * skip,
            skip=skip,
            prediction=noise[:, ::2, ::2].copy() if prediction else None,
        )

    def states(self, seed: int, *skips: float, size: int = 8) -> list[NoiseState]:
        return [self.state(seed * 100 + i, skip, size=size) for i, skip in enumerate(skips or self.levels)]

    def entry(self, seed: int, *, tenant: str = "anna", entry_id: int = 0, prompt: str | None = None) -> CacheEntry:
        text = prompt or f"secret prompt {seed}"
        return CacheEntry(
            entry_id=entry_id,
            signature=replace(self.signature, tenant=tenant),
            prompt=text,
            prompt_hash=hashlib.sha256(text.encode()).hexdigest(),
            embedding=self.vector(seed),
            seed=seed,
            steps=50,
            exact_key=f"{tenant}-{seed}",
            created=1_700_000_000.0 + seed,
            depth=0,
            gpu_seconds=1.5,
        )
