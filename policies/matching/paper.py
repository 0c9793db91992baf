"""The published baseline: Nirvana's fixed table, one neighbour, no gate."""

import math
from collections.abc import Sequence

from policies.matching.base import Candidate, MatchDecision
from policies.matching.ranking import TableMatching
from policies.matching.table import ThresholdRow

PAPER_ROWS = tuple(
    ThresholdRow(skip, min_similarity, math.inf)
    for skip, min_similarity in ((0.1, 0.65), (0.2, 0.75), (0.3, 0.85), (0.4, 0.90), (0.5, 0.95))
)
"""K = 5..25 of 50 against CLIP text-text cosine (Agarwal et al., NSDI '24)."""


class PaperTableMatching(TableMatching):
    """Nirvana's matching, the baseline to beat: the first neighbour only, its deepest permitted state, no gate.

    The thresholds are strict in the paper (s > 0.65) and were profiled on CLIP text embeddings; on another
    embedder they mean nothing in particular.
    """

    def __init__(self) -> None:
        """Match by the published table."""
        rows = tuple(
            ThresholdRow(row.skip, math.nextafter(row.min_similarity, 2.0), row.max_divergence) for row in PAPER_ROWS
        )
        super().__init__(rows=rows, max_attempts=1, needs_prediction=False, veto=frozenset())

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return at most one attempt, from the nearest candidate only."""
        nearest = candidates[:1]
        return super().choose(prompt, nearest, min_similarity=min_similarity, max_skip=max_skip, steps=steps)
