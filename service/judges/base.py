"""The contract of a judge."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class JudgeError(Exception):
    """There is no such judge, or it cannot be loaded; the message is one clear line."""


class Judge(ABC):
    """Scores pictures against prompts; deterministic, and independent of what else is in the batch.

    Attributes:
        name: what it is and of which weights, for reports: two judges whose scores differ never share a name.
        loss: by how much a score must fall for a user to see that something is missing: what makes a hit a bad hit.
    """

    name: str
    loss: float

    @abstractmethod
    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return one score per picture, higher is better; NaN where the judge cannot read the prompt.

        Args:
            images: [H, W, 3] each, in RGB; sizes may differ.
            prompts: one per picture.

        Raises:
            ValueError: the numbers differ.
        """
