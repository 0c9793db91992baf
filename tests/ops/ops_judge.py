"""A judge for a model with random weights: it finds every picture as good as any other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.judges import Judge


class EvenJudge(Judge):
    name = "even"
    loss = 0.1

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> NDArray[np.float64]:
        return np.full(len(images), 0.5)


def even() -> Judge:
    return EvenJudge()
