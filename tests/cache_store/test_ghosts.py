"""What was evicted and is asked for again is counted, and its successor bears its page."""

import numpy as np
import pytest

from cache_store.ghosts import Ghost, Ghosts


def unit(*values: float) -> np.ndarray:
    vector = np.asarray(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_the_nearest_of_the_partition_above_the_floor() -> None:
    ghosts = Ghosts(0.9)
    ghosts.add("a", unit(1, 0), Ghost(1, 1, 2.0))
    ghosts.add("a", unit(1, 0.2), Ghost(2, 7, 2.0))
    ghosts.add("b", unit(0, 1), Ghost(3, 3, 2.0))
    found = ghosts.nearest("a", unit(1, 0.25))
    assert found is not None
    assert (found.entry_id, found.page) == (2, 7)
    assert ghosts.nearest("a", unit(0, 1)) is None
    assert ghosts.nearest("c", unit(0, 1)) is None
    assert ghosts.nearest("b", unit(0, 1, 0)) is None  # another dimension


def test_bounded_and_forgettable() -> None:
    ghosts = Ghosts(0.9, most=3)
    for number in range(1, 6):
        ghosts.add("a", unit(number, 1), Ghost(number, number, 1.0))
    assert len(ghosts) == 3
    ghosts.forget(4)
    ghosts.forget(99)
    assert len(ghosts) == 2
    ghosts.forget(3)
    ghosts.forget(5)
    assert ghosts._members == {}


def test_remembers_the_best_state_an_entry_lost() -> None:
    ghosts = Ghosts(0.9)
    for seconds in (1.0, 3.0, 2.0):
        ghosts.add("a", unit(1, 0), Ghost(1, 1, seconds))
    found = ghosts.nearest("a", unit(1, 0))
    assert found is not None
    assert found.saved_seconds == pytest.approx(3.0)
