"""How the judge is trained: clean renders, soft and noisy ones, and autoencoder reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from training.judge import Judge, JudgeNetwork
from training.latents import standard_vae
from training.loop import RUNS, Run
from training.optim import Optimisers
from training.pool import Pixels, build_pool, draw_shard, load_pool
from training.scenes import ATTRIBUTE_VALUES, Caption, Scene
from training.vae import reconstruct, to_tensor

_BATCH = 32
_RECONSTRUCTED = 4000
_VALID_SEED = 90_002


def all_labels(scenes: list[Scene]) -> torch.Tensor:
    """Value indices [B, attributes]; -100 for the second thing of a scene that has one only."""
    facts = [scene.attributes() for scene in scenes]
    return torch.tensor(
        [
            [values.index(row[name]) if name in row else -100 for name, values in ATTRIBUTE_VALUES.items()]
            for row in facts
        ]
    )


def fully_mentioned(scene: Scene) -> Caption:
    """A caption without text that pins down every attribute, to judge a render."""
    return Caption("", scene, frozenset(scene.attributes()))


def _reconstructions(pixels: Pixels, picks: np.ndarray) -> Pixels:
    """The same pictures through the autoencoder; computed once, then read from ``runs``."""
    path = RUNS / "pool-reconstructed.npy"
    if not path.exists():
        vae, parts = standard_vae(), []
        for part in np.array_split(picks, len(picks) // 50):
            soft = (reconstruct(vae, to_tensor(pixels[part])) + 1) * 127.5
            parts.append(soft.round().byte().permute(0, 2, 3, 1).numpy())
        np.save(path, np.concatenate(parts))
    pictures: Pixels = np.load(path)
    return pictures


def _training_set() -> tuple[Pixels, list[Scene]]:
    """Renders of trained and never-trained combinations, and reconstructions of some of them.

    The judge must know the combinations that the generator never sees, or it could not judge them.
    """
    build_pool(RUNS / "pool-novel", 8, 3, "novel")
    pixels, scenes = load_pool(RUNS / "pool-train")
    more, more_scenes = load_pool(RUNS / "pool-novel")
    pixels, scenes = np.concatenate([pixels, more]), scenes + more_scenes
    picks = np.sort(np.random.default_rng(5).permutation(len(scenes))[:_RECONSTRUCTED])
    soft = _reconstructions(pixels, picks)
    return np.concatenate([pixels, soft]), scenes + [scenes[p] for p in picks]


def _augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Small shifts, changes of brightness, blur and noise; pictures in [0, 1]."""
    dy, dx = (int(d) for d in rng.integers(-2, 3, 2))
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 130 + dy, 2 + dx : 130 + dx]
    shape = (len(images), 1, 1, 1)
    soft = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    share = torch.from_numpy(np.maximum(rng.uniform(-0.6, 0.9, shape), 0)).float()
    images = images + (soft - images) * share
    images = images * torch.from_numpy(rng.uniform(0.93, 1.07, shape)).float()
    level = torch.from_numpy(np.maximum(rng.uniform(-0.04, 0.05, shape), 0)).float()
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return (images + noise * level).clamp(0, 1)


def _loss(network: JudgeNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    losses = [
        F.cross_entropy(one.float(), labels[:, k], reduction="sum", label_smoothing=0.02)
        for k, one in enumerate(logits)
    ]
    return torch.stack(losses).sum() / (labels >= 0).sum()


def train_judge(minutes: float, seed: int = 31) -> None:
    """Train the judge; resumes from ``runs/judge.pt``."""
    torch.manual_seed(seed)
    run = Run("judge", minutes, save_every=60)
    network = JudgeNetwork()
    optimisers = Optimisers(network, 0.01, 2e-3, adam_only=("body.0.0", "heads"), weight_decay=0.05)
    if (state := run.restore()) is not None:
        network.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimisers"])
    pixels, scenes = _training_set()
    labels = all_labels(scenes)
    valid, valid_scenes = draw_shard([_VALID_SEED], "heldout", 200)
    captions = [fully_mentioned(scene) for scene in valid_scenes]
    clean = (to_tensor(valid) + 1) / 2
    rng = np.random.default_rng([seed, run.step])
    for step in run.steps():
        picks = rng.integers(len(pixels), size=_BATCH)
        images = _augment((to_tensor(pixels[picks]) + 1) / 2, rng)
        loss = _loss(network, images, labels[picks])
        torch.autograd.backward(loss)
        optimisers.step(run.rate())
        if step % 200 == 0:
            accuracy = float(Judge(network).score(clean, captions).score.mean())
            network.train()
            run.log(loss=round(loss.item(), 4), valid_accuracy=round(accuracy, 4))
        if run.due():
            run.save(model=network.state_dict(), optimisers=optimisers.state_dict())
    run.save(model=network.state_dict(), optimisers=optimisers.state_dict())


def export_judge(folder: Path) -> None:
    """Write the trained judge as half-precision safetensors to ``folder``."""
    state = torch.load(RUNS / "judge.pt", weights_only=True)["model"]
    kept = {k: v.contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() for k, v in kept.items()}, folder / "judge.safetensors")
