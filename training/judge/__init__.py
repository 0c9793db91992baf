"""The judge: how many of a caption's attributes does a picture have?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from training.judge.network import JudgeNetwork
from training.scenes.captions import Caption
from training.scenes.spec import ATTRIBUTE_VALUES

_WEIGHTS = "judge.safetensors"
_BATCH = 32


@dataclass(frozen=True)
class JudgeResult:
    """What the judge found, one entry per picture.

    Attributes:
        correct: for every attribute the caption mentions, whether the picture has it right.
        score: share of the mentioned attributes that are right, float64 [B] in [0, 1].
    """

    correct: list[dict[str, bool]]
    score: npt.NDArray[np.float64]


class Judge:
    """Scores pictures against captions with a small classifier of scene attributes."""

    def __init__(self, network: JudgeNetwork) -> None:
        self._network = network.eval()

    @classmethod
    def load(cls, path: str | Path = "models/scenes-judge") -> Judge:
        """Load the judge that ships in ``path``.

        Raises:
            FileNotFoundError: there is no judge in that folder.
        """
        weights = Path(path) / _WEIGHTS
        if not weights.exists():
            raise FileNotFoundError(f"no judge in {path}: {weights} is missing")
        network = JudgeNetwork()
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
        return cls(network)

    @torch.inference_mode()
    def attributes(self, images: torch.Tensor) -> list[dict[str, str]]:
        """What the judge sees in pictures [B, 3, 128, 128], float in [0, 1].

        Raises:
            ValueError: the pictures have another shape.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, 128, 128):
            raise ValueError(f"pictures must be [B, 3, 128, 128], not {list(images.shape)}")
        found: list[dict[str, str]] = []
        for part in torch.split(images.float(), _BATCH):
            picks = [logits.argmax(-1).tolist() for logits in self._network(part)]
            names = ATTRIBUTE_VALUES.items()
            found += [
                {name: values[pick] for (name, values), pick in zip(names, row, strict=True)}
                for row in zip(*picks, strict=True)
            ]
        return found

    def score(self, images: torch.Tensor, captions: list[Caption]) -> JudgeResult:
        """Compare pictures with their captions.

        Args:
            images: float [B, 3, 128, 128] in [0, 1].
            captions: one per picture; only attributes in ``mentioned`` count.

        Raises:
            ValueError: the numbers of pictures and captions differ, or a picture's shape is wrong.
        """
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} pictures but {len(captions)} captions")
        correct = []
        for seen, one in zip(self.attributes(images), captions, strict=True):
            wanted = one.scene.attributes()
            correct.append({name: seen[name] == wanted[name] for name in sorted(one.mentioned)})
        shares = [float(np.mean(list(row.values()))) for row in correct]
        return JudgeResult(correct, np.array(shares, np.float64))


__all__ = ["Judge", "JudgeNetwork", "JudgeResult"]
