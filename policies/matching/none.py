"""No approximate hits at all."""

from collections.abc import Sequence

from policies.matching.base import Candidate, MatchDecision, MatchingPolicy


class NoMatching(MatchingPolicy):
    """Proposes nothing, for a stated reason: the deployed model has no table that was profiled on it."""

    def __init__(self, reason: str = "uncalibrated") -> None:
        """Answer every request with `reason`."""
        self.reason = reason

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return no attempts."""
        return MatchDecision((), self.reason)
