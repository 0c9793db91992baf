"""How smoothly a model maps noise and prompts to pictures: three measures of one loaded model.

- ISTD, published (Smooth Diffusion, Guo et al., CVPR 2024, arXiv 2312.04410).
- The variation r that paper's regularisation keeps constant; here it is only measured.
- Resume sensitivity, our own: how far a run resumed from another prompt's state ends from a run of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.base import Pipeline
from service.engine.job import capture_steps
from service.engine.levels import Level
from service.probe.measures import (
    MIXINGS,
    SHARES,
    Floats,
    Mixing,
    directions,
    mix,
    neighbour_distances,
    picture_distance,
    variation,
)
from service.probe.pairs import PromptPair
from service.probe.walking import Setting, Walker, rows_of, stacked

DEPTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the steps skipped."""
UNGUIDED = 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be probed.

    Attributes:
        prompts: of the model's kind.
        pairs: of `prompts`, at least two.
        setting: of all runs.
        levels: noise levels r is measured at.
        seed: of the first noise; the next ones follow.
        batch: rows of a forward.
    """

    prompts: tuple[str, ...]
    pairs: tuple[PromptPair, ...]
    setting: Setting
    levels: int = 6
    seed: int = 700_001
    batch: int = 8

    @property
    def sources(self) -> list[str]:
        """The prompt each pair's state comes from."""
        return [self.prompts[pair.source] for pair in self.pairs]

    @property
    def targets(self) -> list[str]:
        """The prompt each pair is resumed with."""
        return [self.prompts[pair.target] for pair in self.pairs]

    @property
    def depths(self) -> tuple[int, ...]:
        """Steps skipped, ascending."""
        return capture_steps(DEPTHS, self.setting.steps)

    @property
    def work(self) -> int:
        """Steps of rows, r's evaluations included."""
        steps = self.setting.steps
        between = len(MIXINGS) * len(SHARES) * steps
        resumed = 2 * steps + sum(2 * (steps - skipped) for skipped in self.depths)
        return len(self.pairs) * (between + resumed + self.levels)


def probe_smoothness(
    pipeline: Pipeline, wish: Wish, advanced: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Measure a model.

    Args:
        pipeline: the loaded model.
        wish: what to measure.
        advanced: told of work that is done, `wish.work` in all.

    Returns:
        A report of plain numbers, ready for JSON.
    """
    walker = Walker(pipeline, wish.setting, wish.batch, advanced)
    resumed, clean = resume_sensitivity(walker, wish)
    return {
        "istd": {kind: interpolation(walker, wish, kind) for kind in MIXINGS},
        "variation": variation_by_level(walker, wish, clean, advanced),
        "resume_sensitivity": resumed,
    }


def interpolation(walker: Walker, wish: Wish, kind: Mixing) -> dict[str, Any]:
    """Draw eleven pictures between two noises per source prompt.

    Returns:
        `value`: ISTD over pixels in [0, 1]; `deviations` and `distances` (mean of the ten) per prompt; `relative`:
        the mean of deviation / distance, which does not depend on the picture's size (our own).
    """
    deviations, distances = [], []
    for number, prompt in enumerate(wish.sources):
        first, second = (walker.noise(wish.seed + 2 * number + offset) for offset in (0, 1))
        noises = torch.stack([mix(first, second, share, kind) for share in SHARES])
        pictures = walker.pictures(walker.walk(noises, [prompt] * len(noises)).clean)
        between = neighbour_distances(pictures)
        deviations.append(float(between.std()))
        distances.append(float(between.mean()))
    ratios = [d / m for d, m in zip(deviations, distances, strict=True) if m > 0]
    return {
        "value": float(np.mean(deviations)),
        "relative": float(np.mean(ratios)) if ratios else 0.0,
        "deviations": deviations,
        "distances": distances,
    }


def variation_by_level(walker: Walker, wish: Wish, clean: Tensor, advanced: Callable[[int], None]) -> dict[str, Any]:
    """Measure r at the model's own clean latents, without guidance, as it would be in training.

    The levels are those a run of one step more visits after its first, where there is nothing but noise.

    Args:
        walker: gives pipeline and setting.
        wish: what to measure.
        clean: of the pairs' source prompts, [B, C, h, w].
        advanced: told of evaluations.
    """
    size = (wish.setting.width, wish.setting.height)
    grid = walker.pipeline.grid(wish.setting.solver, wish.levels + 1, *size)
    generator = torch.Generator().manual_seed(wish.seed)
    levels = []
    every: list[Floats] = []
    for time, level in list(zip(grid.times, grid.levels, strict=False))[1:]:
        found = []
        for start in range(0, len(clean), wish.batch):
            part = slice(start, start + wish.batch)
            predict = clean_prediction(walker.pipeline, wish.sources[part], (time, level), wish.setting)
            latents = clean[part]
            noise, towards = (
                torch.randn(latents.shape, generator=generator),
                directions(tuple(latents.shape), generator),
            )
            found.append(variation(predict, latents, noise.to(latents), level, towards.to(latents)))
            advanced(len(latents))
        every.append(np.concatenate(found))
        levels.append({"time": time, "log_snr": level.log_snr, **spread(every[-1])})
    return {**spread(np.concatenate(every)), "levels": levels}


def clean_prediction(
    pipeline: Pipeline, prompts: Sequence[str], at: tuple[float, Level], setting: Setting
) -> Callable[[Tensor], Tensor]:
    """Return the model's unguided x0hat of [B, C, h, w] at a time value and its level, differentiable.

    Models that are told the guidance scale are told the setting's.
    """
    conditions = stacked([pipeline.encode(prompt, setting.width, setting.height) for prompt in prompts])
    scale = UNGUIDED if pipeline.info.guidance == "classifier-free" else setting.guidance

    def predict(latents: Tensor) -> Tensor:
        return pipeline.differentiable(rows_of(latents, *at, conditions, conditions, scale))

    return predict


def resume_sensitivity(walker: Walker, wish: Wish) -> tuple[dict[str, Any], Tensor]:
    """Resume each pair's target from its source's states, and compare with the target's own run from the same noise.

    Our own measure. All distances are divided by the mean distance between target pictures of different pairs, whose
    prompts and noises both differ: 1 is an unrelated picture. `restart` is the same for a state of the target's own
    run: what the solver alone loses at the entry (0 for first-order ones).

    Returns:
        `unrelated`: the divisor, RMS over pixels in [0, 1]; `pairs`: similarity and distance by depth; `depths`: mean
        over pairs. And the clean latents of the source runs, [B, C, h, w].
    """
    noises = torch.stack([walker.noise(wish.seed + 100_000 + number) for number in range(len(wish.pairs))])
    source = walker.walk(noises, wish.sources, wish.depths)
    own = walker.walk(noises, wish.targets, wish.depths)
    pictures = walker.pictures(own.clean)
    unrelated = float(np.mean([picture_distance(a, b) for a, b in permutations(pictures, 2)]))
    unrelated = unrelated or float("nan")

    def apart(states: Tensor, skipped: int) -> Floats:
        ends = walker.pictures(walker.resume(states, wish.targets, skipped))
        return np.array([picture_distance(a, b) for a, b in zip(ends, pictures, strict=True)]) / unrelated

    similarity = np.array([pair.similarity for pair in wish.pairs])
    found = {skipped: apart(source.states[skipped], skipped) for skipped in wish.depths}
    restart = {skipped: apart(own.states[skipped], skipped) for skipped in wish.depths}
    depths = [
        {
            "skipped": skipped,
            "share": skipped / wish.setting.steps,
            **spread(found[skipped]),
            "restart": float(restart[skipped].mean()),
            "rank_correlation": rank_correlation(similarity, found[skipped]),
        }
        for skipped in wish.depths
    ]
    pairs = [
        {"similarity": pair.similarity, "distances": [float(found[skipped][row]) for skipped in wish.depths]}
        for row, pair in enumerate(wish.pairs)
    ]
    mean = float(np.mean([values.mean() for values in found.values()]))
    return {"value": mean, "unrelated": unrelated, "depths": depths, "pairs": pairs}, source.clean


def spread(values: Floats) -> dict[str, float]:
    """Return mean, coefficient of variation (standard deviation / mean; NaN for mean 0) and number."""
    mean = float(values.mean())
    return {"mean": mean, "cv": float(values.std()) / mean if mean else float("nan"), "n": float(len(values))}


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation; NaN where one side does not vary (ties share their mean rank)."""
    a, b = _ranks(first), _ranks(second)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: NDArray[np.floating]) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
