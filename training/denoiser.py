"""What training any denoiser takes: workers that average gradients, averaged weights, one loop, the noise levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import nn

from training.latents import LatentPool
from training.loop import RUNS, Run, rate_at
from training.optim import Optimisers
from training.scenes import Scene, caption
from training.scenes.drawing import object_mask
from training.vae import LATENT_SIZE

BATCH = 32
_DROPPED = 0.1
_THING_WEIGHT = 6.0
_EMA = 0.998
_WARMUP = 0.01


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling: cosine (Nichol & Dhariwal, 2021), v, trailing."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Average:
    """Exponential moving average of a model's weights, quick to forget at the start."""

    def __init__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in weights}

    def update(self, weights: Iterable[tuple[str, torch.Tensor]], step: int) -> None:
        """Move towards the weights after optimiser step ``step``."""
        share = 1 - min(_EMA, (1 + step) / (10 + step))
        for name, weight in weights:
            self.weights[name].lerp_(weight.detach(), share)


def _stratified_times(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Training times that cover 0..999 evenly within every batch (less variance)."""
    shares = (np.arange(count) + rng.random(count)) / count
    return torch.from_numpy((shares * 1000).astype(np.int64))


@lru_cache(maxsize=4096)
def _weights(scene: Scene) -> torch.Tensor:
    """Loss weights [1, 16, 16] of mean one: cells that hold a thing count more than background.

    A small thing covers 4 % of the cells, the background's texture most of the error. The weights follow from what
    the caption says (layout and size), so they move emphasis between cells, not the optimum within one.
    """
    mask = torch.from_numpy(object_mask(scene))[None, None]
    cells = 1 + _THING_WEIGHT * F.adaptive_avg_pool2d(mask, LATENT_SIZE)[0]
    return cells / cells.mean()


class Team:
    """Worker processes that average their gradients every step (one thread each beats two threads).

    Args:
        rank: this worker; worker 0 keeps the clock, the log and the checkpoints.
        workers: how many there are; with one there is nothing to average.
    """

    def __init__(self, rank: int, workers: int) -> None:
        self.rank, self.workers = rank, workers
        if workers > 1:
            meeting = (RUNS / "meeting").absolute().as_uri()
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)

    def average(self, weights: list[nn.Parameter], loss: float, progress: float) -> tuple[float, float]:
        """Average all gradients in place; returns the mean loss and worker 0's progress."""
        grads = [weight.grad for weight in weights if weight.grad is not None]
        facts = torch.tensor([loss, progress if self.rank == 0 else 0.0])
        if self.workers == 1:
            return loss, progress
        flat = torch.cat([*(grad.flatten() for grad in grads), facts])
        dist.all_reduce(flat)
        parts = torch.split(flat[:-2].div(self.workers), [grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        return float(flat[-2]) / self.workers, float(flat[-1])


class Trainer(ABC):
    """Everything one training step needs, built from what the earlier stages left in ``runs``.

    Args:
        minutes: wall-clock budget of worker 0.
        seed: of weights, noise and captions.
        team: this worker and its fellows.
    """

    name: ClassVar[str]
    """The stage; its checkpoint is ``runs/<name>.pt``."""
    adam_only: ClassVar[tuple[str, ...]]
    """Parts of the names of matrices that Muon does not suit: the first and last layers."""

    def __init__(self, minutes: float, seed: int, team: Team) -> None:
        torch.manual_seed(seed)
        self.team, self.run = team, Run(self.name, minutes)
        self.model = self.new_model()
        self.weights = list(self.model.parameters())
        self.optimisers = Optimisers(self.model, 0.01, 1e-3, adam_only=self.adam_only, weight_decay=0.02)
        self.average = Average(self.model.named_parameters())
        if (state := self.run.restore()) is not None:
            self.model.load_state_dict(state["model"])
            self.optimisers.load_state_dict(state["optimisers"])
            self.average.weights = state["average"]
        self.scheduler = new_scheduler()
        self.rng = np.random.default_rng([seed, self.run.step, team.rank])
        self.pool = LatentPool(grow_too=team.rank == 0)

    @abstractmethod
    def new_model(self) -> nn.Module:
        """The untrained denoiser."""

    @abstractmethod
    def velocities(
        self, texts: list[str], noisy: torch.Tensor, times: torch.Tensor, truth: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's v and the v it should give, each float32 [B, C, h, w].

        Args:
            texts: B captions, some of them empty.
            noisy: latents [B, C, h, w] at ``times`` [B].
            times: 0 to 999.
            truth: v of the very noise and latent that were mixed.
        """

    def loss(self) -> torch.Tensor:
        """The weighted squared error of one freshly drawn, freshly worded batch."""
        latents, scenes = self.pool.draw(self.rng, BATCH)
        texts = ["" if self.rng.random() < _DROPPED else caption(scene, self.rng).text for scene in scenes]
        noise = torch.from_numpy(self.rng.standard_normal(latents.shape, dtype=np.float32))
        times = _stratified_times(len(latents), self.rng)
        noisy = self.scheduler.add_noise(latents, noise, times)
        truth = self.scheduler.get_velocity(latents, noise, times)
        given, wanted = self.velocities(texts, noisy, times, truth)
        weights = torch.stack([_weights(scene) for scene in scenes])
        loss: torch.Tensor = (weights * (given - wanted) ** 2).mean()
        return loss

    def step(self) -> tuple[float, float]:
        """One optimiser step; returns the loss and the share of the budget spent."""
        loss = self.loss()
        torch.autograd.backward(loss)
        mean, progress = self.team.average(self.weights, loss.item(), self.run.progress)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimisers.step(rate_at(progress, _WARMUP))
        self.average.update(self.model.named_parameters(), self.run.step)
        return mean, progress

    def save(self) -> None:
        """Write a checkpoint."""
        self.run.save(
            model=self.model.state_dict(),
            average=self.average.weights,
            optimisers=self.optimisers.state_dict(),
        )


def train(kind: type[Trainer], minutes: float, seed: int, rank: int = 0, workers: int = 1) -> None:
    """Train until the budget is spent; resumes from the stage's checkpoint.

    Args:
        kind: which denoiser.
        minutes: wall-clock budget of worker 0.
        seed: of weights, noise and captions.
        rank: this worker.
        workers: processes that train together, each on its own batches.
    """
    trainer = kind(minutes, seed, Team(rank, workers))
    if rank == 0:
        _lead(trainer)
    else:
        while trainer.step()[1] < 1.0:
            trainer.run.step += 1
            if trainer.run.step % 200 == 0:
                trainer.pool.refresh()
    trainer.pool.close()


def _lead(trainer: Trainer) -> None:
    """Worker 0's loop: train, log, save; its last step tells the others that time is up."""
    losses: list[float] = []
    progress = 0.0
    for step in trainer.run.steps():
        loss, progress = trainer.step()
        losses.append(loss)
        if step % 50 == 0:
            trainer.pool.refresh()
            trainer.run.log(loss=round(float(np.mean(losses)), 5), scenes=len(trainer.pool))
            losses.clear()
        if trainer.run.due():
            trainer.save()
    if progress < 1.0:
        trainer.step()
    trainer.save()


def averaged(kind: type[Trainer], model: nn.Module) -> nn.Module:
    """Put the averaged weights of a stage's checkpoint into ``model``, in evaluation mode."""
    model.load_state_dict(torch.load(RUNS / f"{kind.name}.pt", weights_only=True)["average"])
    return model.eval()
