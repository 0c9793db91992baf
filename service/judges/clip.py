"""CLIP as a judge: the cosine of picture and prompt (CLIPScore, Hessel et al., EMNLP 2021)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from service.judges.base import Judge, JudgeError

_BATCH = 16
LOSS = 0.05
"""Share of a prompt's own typical score."""


class ClipJudge(Judge):
    """100 * cosine of picture and prompt, by any model of CLIP's form (PickScore is one, too)."""

    def __init__(self, model: Any, processor: Any, name: str, device: str) -> None:
        """Judge with `model` and its `processor`."""
        self._model = model.eval().to(device)
        self._processor = processor
        self._device = device
        self.name = name
        # CLIPScores of right pictures lie around 30: a twentieth of that is what the field calls a visible loss.
        self.loss = LOSS * 30.0

    @classmethod
    def load(cls, model: str, device: str = "cpu") -> Self:
        """Load a folder or hub id.

        Raises:
            JudgeError: it cannot be loaded.
        """
        from transformers import CLIPModel, CLIPProcessor

        try:
            network = CLIPModel.from_pretrained(model)
            processor = CLIPProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise JudgeError(f"judge clip:{model} cannot be loaded: {str(error).splitlines()[0]}") from error
        return cls(network, processor, f"clip:{model}", device)

    @torch.inference_mode()
    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return 100 * cosine; prompts are cut after CLIP's 77 tokens."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts")
        scores: list[float] = []
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            inputs = self._processor(
                text=list(prompts[part]),
                images=list(images[part]),
                return_tensors="pt",
                padding=True,
                truncation=True,
            ).to(self._device)
            out = self._model(**inputs)
            cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds, dim=-1)
            scores += (100.0 * cosine.double()).tolist()
        return np.array(scores, dtype=np.float64)
