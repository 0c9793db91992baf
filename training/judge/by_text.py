"""The scenes' judge as the service knows judges: it reads the prompt itself ("training.judge.by_text:scenes")."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.judges import Judge
from training.judge import Judge as ScenesJudge
from training.scenes.reading import read_caption

_FOLDER = Path(__file__).parents[2] / "models" / "scenes-judge"
LOSS = 0.05
"""Less than one of the most attributes a caption names."""


class TextJudge(Judge):
    """Share of the attributes a scene's caption names that are right in the picture; NaN for other texts."""

    loss = LOSS

    def __init__(self, judge: ScenesJudge, digest: str) -> None:
        """Judge by `judge`."""
        self._judge = judge
        self.name = f"scenes-judge-{digest[:8]}"

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return the share per picture; pictures that are not 128 pixels square score NaN, too."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts")
        scores = np.full(len(images), np.nan)
        read = [(i, caption) for i, prompt in enumerate(prompts) if (caption := read_caption(prompt)) is not None]
        known = [(i, caption) for i, caption in read if images[i].shape == (128, 128, 3)]
        if known:
            batch = torch.from_numpy(np.stack([images[i] for i, _ in known])).permute(0, 3, 1, 2).float() / 255
            scores[[i for i, _ in known]] = self._judge.score(batch, [caption for _, caption in known]).score
        return scores


def scenes() -> TextJudge:
    """Return the judge that ships with the scenes models."""
    weights = (_FOLDER / "judge.safetensors").read_bytes()
    return TextJudge(ScenesJudge.load(_FOLDER), hashlib.sha256(weights).hexdigest())
