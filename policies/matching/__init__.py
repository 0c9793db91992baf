"""Similarity proposes: from candidates to resume attempts."""

from policies.matching.base import Attempt, Candidate, MatchDecision, MatchingPolicy, StateRef
from policies.matching.gated import GatedTableMatching
from policies.matching.none import NoMatching
from policies.matching.paper import PAPER_ROWS, PaperTableMatching
from policies.matching.table import TableError, ThresholdRow, ThresholdTable
from policies.matching.tightened import TightenedMatching
from policies.matching.veto import lexical_veto, veto_reasons

POLICIES = ("gated", "paper", "none")
"""The names `make_matching` knows."""


def make_matching(name: str, table: ThresholdTable | None = None) -> MatchingPolicy:
    """Return the matching policy called `name`.

    Args:
        name: "gated" (needs `table`; without one nothing is matched), "paper" or "none".
        table: the bounds profiled on the deployed model and embedder, or None when there are none.

    Raises:
        ValueError: no policy has that name; the message lists those that exist.
    """
    if name == "gated":
        return NoMatching("uncalibrated") if table is None else GatedTableMatching(table)
    if name == "paper":
        return PaperTableMatching()
    if name == "none":
        return NoMatching()
    raise ValueError(f"unknown matching policy {name!r}; known: {', '.join(POLICIES)}")


__all__ = [
    "PAPER_ROWS",
    "POLICIES",
    "Attempt",
    "Candidate",
    "GatedTableMatching",
    "MatchDecision",
    "MatchingPolicy",
    "NoMatching",
    "PaperTableMatching",
    "StateRef",
    "TableError",
    "ThresholdRow",
    "ThresholdTable",
    "TightenedMatching",
    "lexical_veto",
    "make_matching",
    "veto_reasons",
]
