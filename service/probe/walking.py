"""Runs from chosen noise: what the engine's jobs, which know only seeds, cannot start from."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from service.engine.base import Condition, ImageArray, Pipeline, Rows
from service.engine.levels import Level
from service.engine.solvers import SOLVERS, Memory, plan_step, step


@dataclass(frozen=True, slots=True)
class Setting:
    """How all runs of a probe run.

    Attributes:
        solver: vectorised and deterministic, see `deterministic_solvers`.
        steps: N.
        guidance: scale.
        width: pixels.
        height: pixels.
    """

    solver: str
    steps: int
    guidance: float
    width: int
    height: int


@dataclass(slots=True)
class Walked:
    """What runs ended at.

    Attributes:
        clean: latents x_0, float32 [B, C, h, w].
        states: K -> latents after K of the N steps, float32 [B, C, h, w].
    """

    clean: Tensor
    states: dict[int, Tensor] = field(default_factory=dict)


def deterministic_solvers(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the model's solvers whose runs are a function of the first noise alone, its default first."""
    return tuple(name for name in pipeline.info.solvers if name in SOLVERS and not SOLVERS[name].random)


class Walker:
    """Walks rows through a model's noise levels, from pure noise or from a state on the way.

    Args:
        pipeline: the loaded model.
        setting: how.
        batch: rows of a forward.
        advanced: told of rows that have made a step.
    """

    def __init__(
        self, pipeline: Pipeline, setting: Setting, batch: int, advanced: Callable[[int], None] = lambda _: None
    ) -> None:
        self.pipeline = pipeline
        self.setting = setting
        self._batch = batch
        self._advanced = advanced
        self._grid = pipeline.grid(setting.solver, setting.steps, setting.width, setting.height)

    def noise(self, seed: int) -> Tensor:
        """Return unit noise [C, h, w]."""
        return self.pipeline.initial_noise(seed, self.setting.width, self.setting.height)

    def walk(self, noises: Tensor, prompts: Sequence[str], keep: Collection[int] = ()) -> Walked:
        """Run from unit noises [B, C, h, w], one prompt each; keep the states after each K of `keep`."""
        return self._joined(noises * self._grid.start, prompts, 0, keep)

    def resume(self, states: Tensor, prompts: Sequence[str], skipped: int) -> Tensor:
        """Run the steps from K = `skipped` on; return clean latents.

        Solvers that look back start anew there, as the service's do.
        """
        return self._joined(states, prompts, skipped, ()).clean

    def pictures(self, clean: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3]."""
        starts = range(0, len(clean), self._batch)
        parts = [self.pipeline.decode(clean[start : start + self._batch]) for start in starts]
        joined: ImageArray = np.concatenate(parts)
        return joined

    def _joined(self, latents: Tensor, prompts: Sequence[str], first: int, keep: Collection[int]) -> Walked:
        parts = []
        for start in range(0, len(latents), self._batch):
            chosen = slice(start, start + self._batch)
            parts.append(self._run(latents[chosen], prompts[chosen], first, keep))
        states = {k: torch.cat([part.states[k] for part in parts]) for k in keep}
        return Walked(torch.cat([part.clean for part in parts]), states)

    def _run(self, latents: Tensor, prompts: Sequence[str], first: int, keep: Collection[int]) -> Walked:
        solver, grid = SOLVERS[self.setting.solver], self._grid
        memories = [Memory() for _ in prompts]
        told = self._conditions(prompts)
        states: dict[int, Tensor] = {}
        for index in range(first, len(grid.times)):
            if index in keep:
                states[index] = latents
            now, after = grid.levels[index : index + 2]
            rows = rows_of(latents, grid.times[index], now, *told, self.setting.guidance)
            denoised = self.pipeline.predict(rows)
            updates = [plan_step(solver, memory, now, after, len(grid.times) - index) for memory in memories]
            latents, corrected = step(latents, denoised, memories, updates, [None] * len(memories))
            for row, (memory, update) in enumerate(zip(memories, updates, strict=True)):
                memory.remember(solver, now, denoised[row], corrected[row], update.order)
            self._advanced(len(latents))
        return Walked(latents, states)

    def _conditions(self, prompts: Sequence[str]) -> tuple[Condition, Condition]:
        size = (self.setting.width, self.setting.height)
        conditions = [self.pipeline.encode(prompt, *size) for prompt in prompts]
        if not self.pipeline.info.guided(self.setting.guidance):
            return stacked(conditions), stacked(conditions)
        negative = self.pipeline.encode("", *size, negative=True)
        return stacked(conditions), stacked([negative] * len(prompts))


def stacked(conditions: Sequence[Condition]) -> Condition:
    """Return the conditions of several rows as those of a batch."""
    return {name: torch.stack([one[name] for one in conditions]) for name in conditions[0]}


def rows_of(
    latents: Tensor, time: float, level: Level, conditions: Condition, negatives: Condition, guidance: float
) -> Rows:
    """Return a joint batch whose rows, [B, C, h, w], are all at one noise level."""
    like = torch.ones(len(latents), device=latents.device)
    return Rows(
        latents=latents,
        timesteps=like * time,
        alphas=like * level.alpha,
        sigmas=like * level.sigma,
        conditions=conditions,
        negatives=negatives,
        guidance=like * guidance,
    )
