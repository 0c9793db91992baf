"""Stable Diffusion's own checker: a picture too near to one of its concepts, by CLIP, is flagged."""

import hashlib
import logging
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from transformers import CLIPImageProcessor

from service.safety.base import SafetyCheckerError, SafetyVerdict

_DECIDING = (".safetensors", ".bin", ".json")


class ConceptChecker:
    """Diffusers' `StableDiffusionSafetyChecker` on the CPU; the prompt plays no part.

    Args:
        network: the checker.
        processor: what makes its input of a picture.
        version: see `SafetyChecker`.
    """

    def __init__(self, network: Any, processor: Any, version: str) -> None:
        self._network = network
        self._processor = processor
        self.version = version
        # It says of every flagged picture that it draws it black.
        logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel(logging.ERROR)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the checker in a folder of its own, or in `safety_checker` and `feature_extractor` of a model's.

        Raises:
            SafetyCheckerError: it is not there, or cannot be loaded.
        """
        weights, settings = folder / "safety_checker", folder / "feature_extractor"
        if not weights.is_dir():
            weights = settings = folder
        try:
            network = StableDiffusionSafetyChecker.from_pretrained(weights, local_files_only=True).eval()
            processor = CLIPImageProcessor.from_pretrained(settings, local_files_only=True)
            return cls(network, processor, f"concepts-{_digest(weights, settings)}")
        except Exception as error:  # whatever these libraries find wrong
            raise SafetyCheckerError(f"the safety checker cannot be loaded: {type(error).__name__}") from error

    @torch.inference_mode()
    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        """Return a verdict."""
        pixels = self._processor(images=image, return_tensors="pt").pixel_values
        _, flagged = self._network(clip_input=pixels, images=[np.zeros((1, 1, 3))])
        return SafetyVerdict(bool(flagged[0]), self.version)


def _digest(*folders: Path) -> str:
    found = hashlib.sha256()
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.iterdir()):
            if path.suffix in _DECIDING:
                found.update(f"\n{path.name}\n".encode())
                with path.open("rb") as file:
                    found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]
