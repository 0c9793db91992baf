"""Another policy's attempts, held to less than its table allows where audits have shown that to be too much."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from policies.matching.base import Attempt, Candidate, Deeper, MatchDecision, MatchingPolicy


class Factors(Protocol):
    """Tells how far bounds are tightened now; `AuditController` is one."""

    def factor(self, skip: float, *, same_text: bool) -> float:
        """Return what to multiply the divergence bound of a state at `skip` by, in [0, 1]; 0 = do not enter it."""


class TightenedMatching(MatchingPolicy):
    """Multiplies the divergence bounds of a policy's attempts, and drops states that are closed.

    The factors may change between two requests. With factors of 1 it proposes what the policy proposes.
    """

    def __init__(self, policy: MatchingPolicy, factors: Factors) -> None:
        """Hold the attempts of `policy` to `factors`."""
        self._policy = policy
        self._factors = factors

    def objections(self, prompt: str, candidate: Candidate) -> tuple[str, ...]:
        """Return the policy's."""
        return self._policy.objections(prompt, candidate)

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return what is left of the policy's attempts; "audit" is the reason when nothing is."""
        decision = self._policy.choose(
            prompt, candidates, min_similarity=min_similarity, max_skip=max_skip, steps=steps
        )
        same = {candidate.entry_id: candidate.prompt == prompt for candidate in candidates}
        held = [self._held(attempt, same[attempt.entry_id]) for attempt in decision.attempts]
        left = [attempt for attempt in held if attempt is not None]
        if decision.attempts and not left:
            return MatchDecision((), "audit")
        return replace(decision, attempts=tuple(left))

    def _held(self, attempt: Attempt, same_text: bool) -> Attempt | None:
        here = self._factors.factor(attempt.state.skip, same_text=same_text)
        rungs = [(rung, self._factors.factor(rung.state.skip, same_text=same_text)) for rung in attempt.deeper]
        deeper = tuple(Deeper(rung.state, _times(rung.max_divergence, f)) for rung, f in rungs if f > 0.0)
        if here == 0.0 and not deeper:
            return None
        # A level that is closed may still be judged at, on the way to a deeper one.
        return replace(attempt, max_divergence=_times(attempt.max_divergence, here), deeper=deeper)


def _times(bound: float, factor: float) -> float:
    return bound if math.isinf(bound) and factor > 0.0 else bound * factor if factor > 0.0 else 0.0
