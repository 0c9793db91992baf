"""Pictures to standardised latents: the fixed pool and its growing, refreshed part."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from training.loop import RUNS
from training.pool import Pixels, draw_shard, load_pool, scene_from_json, scene_to_json
from training.scenes import Scene
from training.vae import load_vae, to_tensor

Latents = npt.NDArray[np.float16]

FOLDER = RUNS / "latents"
_GROW_SEED = 2


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Pixels) -> Latents:
    """Posterior means [N, 8, 16, 16] of uint8 pictures [N, 128, 128, 3]."""
    parts = []
    for start in range(0, len(pixels), 25):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(to_tensor(pixels[start : start + 25])).latent_dist
        parts.append(posterior.mean.float().numpy().astype(np.float16))
    return np.concatenate(parts)


@torch.no_grad()
def standardise(vae: AutoencoderKL, pixels: Pixels) -> None:
    """Fold per-channel mean and deviation of the latents into the 1x1 convolutions, in place.

    Afterwards latents have zero mean and unit deviation per channel on ``pixels``, so the scalar
    ``scaling_factor`` of diffusers can be one.
    """
    latents = torch.from_numpy(encode(vae, pixels)).float()
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    count = len(mean)
    scale = torch.cat([1 / deviation, torch.ones(count)])
    shift = torch.cat([-mean / deviation, -2 * deviation.log()])
    vae.quant_conv.weight.mul_(scale[:, None, None, None])
    vae.quant_conv.bias.mul_(scale).add_(shift)
    decode = vae.post_quant_conv
    decode.bias.add_(decode.weight[:, :, 0, 0] @ mean)
    decode.weight.mul_(deviation[None, :, None, None])
    vae.register_to_config(scaling_factor=1.0)


def standard_vae() -> AutoencoderKL:
    """The trained autoencoder with standardised latents; computed once, then read from ``runs``."""
    path = RUNS / "vae-standard.pt"
    vae = load_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
    else:
        pixels, _ = load_pool(RUNS / "pool-train")
        standardise(vae, np.asarray(pixels[:1500]))
        torch.save(vae.state_dict(), path)
    vae.register_to_config(scaling_factor=1.0)
    return vae


def _write_shard(path: Path, latents: Latents, scenes: list[Scene]) -> None:
    lines = np.array([scene_to_json(scene) for scene in scenes])
    draft = path.with_name(f"draft-{path.name}")
    np.savez(draft, latents=latents, scenes=lines)
    os.replace(draft, path)


def encode_pool(limit: int | None = None) -> None:
    """Encode the rendered pool into ``runs/latents``, 1000 scenes a file, skipping finished files.

    Args:
        limit: encode the first so many scenes only.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    vae = standard_vae()
    pixels, scenes = load_pool(RUNS / "pool-train")
    for start in range(0, limit or len(scenes), 1000):
        path = FOLDER / f"pool-{start // 1000:04d}.npz"
        if not path.exists():
            part = slice(start, start + 1000)
            _write_shard(path, encode(vae, np.asarray(pixels[part])), scenes[part])


def grow(limit: int, pause: float) -> None:
    """Finish the pool; then add fresh shards of 500 scenes, one every ``pause`` seconds."""
    torch.set_num_threads(1)
    encode_pool()
    vae, parent = standard_vae(), multiprocessing.parent_process()
    for shard in range(limit):
        path = FOLDER / f"grown-{shard:04d}.npz"
        if parent is not None and not parent.is_alive():
            return
        if path.exists():
            continue
        pixels, scenes = draw_shard([_GROW_SEED, shard], "train")
        _write_shard(path, encode(vae, pixels), scenes)
        time.sleep(pause)


class LatentPool:
    """All encoded scenes so far; a worker process keeps adding new ones.

    Args:
        grow_too: whether to start the worker that adds scenes.
        limit: shards of 500 the worker adds at most.
        pause: seconds the worker rests between shards.
    """

    def __init__(self, grow_too: bool, limit: int = 60, pause: float = 45.0) -> None:
        self._known: set[Path] = set()
        self._latents: list[Latents] = []
        self._scenes: list[Scene] = []
        self._counts: list[int] = []
        self.refresh()
        context = multiprocessing.get_context("spawn")
        self._worker = context.Process(target=grow, args=(limit, pause), daemon=True)
        if grow_too:
            self._worker.start()

    def __len__(self) -> int:
        return len(self._scenes)

    def refresh(self) -> None:
        """Read the shards that have appeared since."""
        for path in sorted(set(FOLDER.glob("pool-*.npz")) | set(FOLDER.glob("grown-*.npz"))):
            if path not in self._known:
                with np.load(path) as shard:
                    self._latents.append(shard["latents"])
                    self._scenes += [scene_from_json(str(line)) for line in shard["scenes"]]
                self._counts.append(len(self._latents[-1]))
                self._known.add(path)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[Scene]]:
        """A random batch: latents [count, 8, 16, 16] float32 and their scenes."""
        ends = np.cumsum(self._counts)
        picks = rng.integers(len(self._scenes), size=count)
        shards = np.searchsorted(ends, picks, side="right")
        starts = ends - np.array(self._counts)
        rows = [self._latents[s][p - starts[s]] for s, p in zip(shards, picks, strict=True)]
        return torch.from_numpy(np.stack(rows)).float(), [self._scenes[p] for p in picks]

    def close(self) -> None:
        """Stop the worker."""
        if self._worker.is_alive():
            self._worker.terminate()
            self._worker.join()
