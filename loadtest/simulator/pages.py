"""Needs: requests that one stored generation would answer bear the same page."""

import numpy as np

from loadtest.simulator.neighbours import Neighbours
from loadtest.simulator.workload import Ints, Workload


def pages_of(workload: Workload, near: Neighbours, floor: float) -> Ints:
    """Return each request's page: that of the nearest text before its own at or above `floor`, else a new one.

    This is what the store gives an entry when nothing is ever forgotten, so it outlasts eviction. Pages are named
    after the first request of the text that started them.
    """
    nearest, similarity = near.nearest_earlier
    pages = workload.first_seen.tolist()
    for text, (other, cosine) in enumerate(zip(nearest.tolist(), similarity.tolist(), strict=True)):
        if other >= 0 and cosine >= floor:
            pages[text] = pages[other]
    return np.asarray(pages, np.int32)[workload.texts]
