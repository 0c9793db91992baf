"""Could hits skip more under load, within the calibrated bounds? The shipped table, on drawn sets of neighbours.

The policy tries first what promises to save most: steps saved times the chance that the gate lets it pass. The
alternative under load would be the deepest state first. Both stay inside the table's rows; what differs is how often
the gate throws steps away.
"""

from typing import Any

import numpy as np

from policies.matching import Candidate, StateRef, ThresholdTable, make_matching
from policies.matching.base import Attempt
from service.settings import DEFAULT_MODEL

PROMPT = "a red ball on a meadow"
ANOTHER = "a red ball on the meadow"
SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5)
NEIGHBOURS = 8
SETS = 2000


def depth() -> dict[str, Any]:
    """Return the expected share of steps saved, most promising first and deepest first."""
    policy = make_matching("gated", ThresholdTable.load(DEFAULT_MODEL / "matching.json"))
    rng = np.random.default_rng(5)
    promising, deepest = [], []
    for _ in range(SETS):
        candidates = [_neighbour(number, rng) for number in range(NEIGHBOURS)]
        chosen = policy.choose(PROMPT, candidates).attempts
        if not chosen:
            continue
        alone = [attempt for one in candidates for attempt in policy.choose(PROMPT, [one]).attempts]
        promising.append(chosen[0].expected)
        deepest.append(max(alone, key=_by_depth).expected)
    gains = [later - first for first, later in zip(promising, deepest, strict=True)]
    return {
        "sets_with_a_match": len(promising),
        "expected_saving_most_promising": float(np.mean(promising)),
        "expected_saving_deepest": float(np.mean(deepest)),
        "sets_where_deepest_saves_more": sum(gain > 1e-9 for gain in gains),
    }


def _by_depth(attempt: Attempt) -> tuple[float, float]:
    return attempt.deepest_skip, attempt.expected


def _neighbour(number: int, rng: np.random.Generator) -> Candidate:
    """An entry that lost some of its states to eviction."""
    held = [skip for skip in SKIPS if rng.random() < 0.7]
    states = tuple(StateRef(20 * skip - 10, skip, has_prediction=True) for skip in held)
    return Candidate(number, float(rng.uniform(0.6, 1.0)), ANOTHER, states)
