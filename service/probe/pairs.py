"""Pairs of prompts to resume one from the other, spread over similarities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_PROMPTS = 512
"""Looked at; all pairs among them are compared."""


@dataclass(frozen=True, slots=True)
class PromptPair:
    """Two prompts, by number, and the cosine of their embeddings."""

    source: int
    target: int
    similarity: float


def spread_pairs(vectors: NDArray[np.floating], count: int) -> list[PromptPair]:
    """Return pairs whose similarities are spread evenly from the most similar pair's down to the median's.

    Below the median of arbitrary pairs nothing would propose a hit, so there is nothing to learn there.

    Args:
        vectors: of the prompts, unit length, [P, D]; the first `MOST_PROMPTS` count.
        count: pairs wanted; fewer come back if there are no more.
    """
    known = np.asarray(vectors[:MOST_PROMPTS], dtype=np.float64)
    sources, targets = np.triu_indices(len(known), k=1)
    values = (known @ known.T)[sources, targets]
    free = np.ones(len(values), dtype=bool)
    chosen: list[PromptPair] = []
    for wanted in np.linspace(values.max(), np.median(values), min(count, len(values))):
        place = int(np.argmin(np.where(free, np.abs(values - wanted), np.inf)))
        free[place] = False
        chosen.append(PromptPair(int(sources[place]), int(targets[place]), float(values[place])))
    return chosen
