"""Pools of rendered scenes on disk, drawn by worker processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.scenes.backgrounds import IMAGE_SIZE
from training.scenes.drawing import render
from training.scenes.spec import Scene, Split, Thing, sample_scene

Pixels = npt.NDArray[np.uint8]

SHARD = 500


def scene_to_json(scene: Scene) -> str:
    """A scene as one line of JSON."""
    return json.dumps(asdict(scene))


def scene_from_json(line: str) -> Scene:
    """The scene that ``scene_to_json`` wrote."""
    facts = json.loads(line)
    return Scene(tuple(Thing(**t) for t in facts["things"]), facts["layout"], facts["background"])


def draw_shard(seed: Sequence[int], split: Split, count: int = SHARD) -> tuple[Pixels, list[Scene]]:
    """Draw ``count`` random scenes of one split from one seed."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, split) for _ in range(count)]
    return np.stack([render(scene, rng) for scene in scenes]), scenes


def _shard_to_disk(path: str, shard: int, seed: int, split: Split) -> list[str]:
    pixels, scenes = draw_shard([seed, shard], split)
    target = np.load(path, mmap_mode="r+")
    target[shard * SHARD : (shard + 1) * SHARD] = pixels
    return [scene_to_json(scene) for scene in scenes]


def build_pool(folder: Path, shards: int, seed: int, split: Split, workers: int = 2) -> None:
    """Draw ``shards`` x 500 scenes to ``folder``/pixels.npy and scenes.jsonl, once.

    Scenes come from (seed, shard) alone, so the pool does not depend on the number of workers.
    """
    if (folder / "scenes.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "pixels.npy")
    shape = (shards * SHARD, IMAGE_SIZE, IMAGE_SIZE, 3)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    with ProcessPoolExecutor(workers) as executor:
        jobs = [executor.submit(_shard_to_disk, path, k, seed, split) for k in range(shards)]
        lines = [line for job in tqdm(jobs, desc=folder.name) for line in job.result()]
    (folder / "scenes.jsonl").write_text("\n".join(lines) + "\n")


def load_pool(folder: Path) -> tuple[Pixels, list[Scene]]:
    """The pictures [N, 128, 128, 3] (memory-mapped) and scenes of a pool."""
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    lines = (folder / "scenes.jsonl").read_text().splitlines()
    return pixels, [scene_from_json(line) for line in lines]
