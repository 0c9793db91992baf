"""The contract of a matching policy: candidates in, ordered resume attempts out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

StateForm = Literal["trajectory", "final"]
"""What is stored of a state: the latent the run passed through, or the run's clean latent, to be noised again."""


@dataclass(frozen=True, slots=True)
class StateRef:
    """A noise state an entry still holds.

    Attributes:
        log_snr: noise level, ln(alpha^2 / sigma^2); rises as a run progresses.
        skip: share of the denoising steps that lie before this state, in (0, 1).
        has_prediction: whether the source run's clean-latent prediction is stored beside it.
        approximated: whether anything inside the network was reused (feature caching) on the way to it.
        form: what is stored of it.
    """

    log_snr: float
    skip: float
    has_prediction: bool
    approximated: bool = False
    form: StateForm = "trajectory"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One neighbour of the new prompt inside its signature's partition.

    Attributes:
        entry_id: stable 64-bit id of the cache entry.
        similarity: cosine of the two prompt embeddings, in [-1, 1].
        prompt: the entry's prompt text, or None when the catalogue keeps only its hash.
        states: the states the entry still holds, in any order.
        foreign: whether it is another tenant's: then nothing of it may be told.
        age: seconds since it was stored.
        seconds_left: to live; infinite without a lifetime.
    """

    entry_id: int
    similarity: float
    prompt: str | None
    states: tuple[StateRef, ...]
    foreign: bool = False
    age: float = field(default=0.0, compare=False)
    seconds_left: float = field(default=float("inf"), compare=False)


@dataclass(frozen=True, slots=True)
class Deeper:
    """A deeper state of the same run, and the divergence *at the attempt's own state* that lets the run enter it."""

    state: StateRef
    max_divergence: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One state worth trying, and the bounds the divergence gate holds it to.

    Attributes:
        entry_id: the entry the state belongs to.
        state: which of its states the gate judges at.
        similarity: cosine similarity of the entry.
        max_divergence: largest divergence of the clean-latent predictions (new prompt
            against source prompt, at this state) with which the resume may go on from this state.
        deeper: states of the same entry to go on from instead, deepest first; the first whose bound
            the divergence at `state` meets is taken.
        expected: share of the steps that it is expected to save, what the gate costs taken off; attempts are
            tried in this order.
    """

    entry_id: int
    state: StateRef
    similarity: float
    max_divergence: float
    deeper: tuple[Deeper, ...] = field(default=())
    expected: float = 0.0

    @property
    def deepest_skip(self) -> float:
        """Share of the steps that the attempt may come to skip."""
        return max((rung.state.skip for rung in self.deeper), default=self.state.skip)


@dataclass(frozen=True, slots=True)
class MatchDecision:
    """What the policy proposes.

    Attributes:
        attempts: in the order to try them; empty means a full generation.
        reason: one of a bounded set of words: "match", "no-candidates", "low-similarity",
            "no-states", "no-gain" (states that promise less than a refusal costs), "veto", "uncalibrated",
            "audit" (closed by audits).
    """

    attempts: tuple[Attempt, ...]
    reason: str


class MatchingPolicy(ABC):
    """Chooses which entry to resume from and how deep; similarity proposes, the engine's gate disposes.

    Pure: no I/O, no clock, no randomness, never raises on an empty list. Every attempt it returns is a
    state of one of the given candidates, at most `max_attempts` of them, never deeper than `max_skip`.
    """

    def objections(self, prompt: str, candidate: Candidate) -> tuple[str, ...]:
        """Return why `prompt` may not resume from a candidate, however similar the two are, in bounded words.

        A policy that objects to nothing need not override it.

        Args:
            prompt: the new prompt's text.
            candidate: one neighbour.
        """
        return ()

    @abstractmethod
    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return the attempts for `prompt`, best first.

        Args:
            prompt: the new prompt's text (for lexical checks).
            candidates: neighbours, best similarity first.
            min_similarity: the request's own floor; the policy's own bounds still apply.
            max_skip: the request's own ceiling on the skipped share of steps.
            steps: of a full run of the request, at least 1, which tell what a refused attempt costs; None = as many
                as the policy was profiled with.
        """
