"""What all table-driven matching policies share: which states qualify, and in which order to try them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.matching.base import Attempt, Candidate, Deeper, MatchDecision, MatchingPolicy, StateRef
from policies.matching.table import ThresholdRow, bounds_at
from policies.matching.veto import lexical_veto, negations, numbers, quotations

# A run of another length has its judging state a little off the profiled level. Earlier is the safe side: predictions
# part further there.
_JUDGED_EARLIER, _JUDGED_LATER = 0.08, 0.05


def can_judge(skip: float, level: float) -> bool:
    """Tell whether a state at `skip` is near enough to a table's judging level."""
    return -_JUDGED_EARLIER <= skip - level <= _JUDGED_LATER


@dataclass(frozen=True)
class Limits:
    """What a request asks and allows: its prompt, similarity floor and deepest share of steps to skip."""

    prompt: str
    min_similarity: float
    max_skip: float


@dataclass(frozen=True)
class TableMatching(MatchingPolicy):
    """Base of the policies that read their bounds from rows.

    Attributes:
        rows: bounds per level, shallowest first.
        max_attempts: most attempts proposed; every refused one costs the request one denoising step.
        needs_prediction: whether a state without a stored prediction (nothing to gate on) is unusable.
        veto: whether the lexical veto removes candidates.
        judged_at: level whose state the gate judges other prompts at, whatever level is resumed at; None = each
            level at itself.
        clearly_shallower: after a refused state, how much less of the run the next state of the same
            prompt must skip; a slightly earlier state of a misfit is a misfit too.
    """

    rows: tuple[ThresholdRow, ...]
    max_attempts: int
    needs_prediction: bool
    veto: bool
    judged_at: float | None = None
    clearly_shallower: float = 0.15

    def objections(self, prompt: str, candidate: Candidate) -> tuple[str, ...]:
        """Return the lexical veto's."""
        return ("veto",) if self.veto and _vetoes(prompt, candidate) else ()

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
    ) -> MatchDecision:
        """Return the attempts for `prompt`, deepest first; see `MatchingPolicy.choose`."""
        limits = Limits(prompt, min_similarity, max_skip)
        allowed = [candidate for candidate in candidates if not self.objections(prompt, candidate)]
        attempts = self._pick(self._usable(allowed, limits), allowed)
        if attempts:
            return MatchDecision(attempts, "match")
        return MatchDecision((), self._why_nothing(candidates, allowed, limits))

    def _usable(self, candidates: Iterable[Candidate], limits: Limits) -> list[Attempt]:
        """Return every state that meets all bounds, most steps saved first, then most similar."""
        usable: list[Attempt] = []
        for candidate in candidates:
            # The same text needs no early judgement: any of its states shows the same picture.
            if self.judged_at is None or candidate.prompt == limits.prompt:
                usable += self._at_own_level(candidate, limits)
            else:
                usable += self._judged_early(candidate, limits, self.judged_at)
        return sorted(usable, key=lambda a: (-a.deepest_skip, -a.similarity, a.entry_id, -a.state.log_snr))

    def _at_own_level(self, candidate: Candidate, limits: Limits) -> list[Attempt]:
        """Every state that meets its own level's bounds is an attempt of its own."""
        return [
            Attempt(candidate.entry_id, state, candidate.similarity, bounds.max_divergence)
            for state, bounds in self._bounded(candidate, limits)
            if state.has_prediction or not self.needs_prediction
        ]

    def _judged_early(self, candidate: Candidate, limits: Limits, level: float) -> list[Attempt]:
        """One attempt: enter at the judging level, and go on from the deepest state the divergence there allows.

        How far two prompts' pictures will part shows early: while the layout is open the new prompt's prediction
        can still differ, later the state itself decides it, and predictions agree even where the picture is wrong.
        """
        near = [state for state in candidate.states if state.has_prediction and can_judge(state.skip, level)]
        if not near:
            return []
        judge = min(near, key=lambda state: abs(state.skip - level))
        bounded = self._bounded(candidate, limits)
        here = [bounds.max_divergence for state, bounds in bounded if state == judge]
        deeper = sorted(
            (Deeper(state, bounds.max_divergence) for state, bounds in bounded if state.skip > judge.skip),
            key=lambda rung: -rung.state.skip,
        )
        if not (here or deeper):
            return []
        # A judging level that the table leaves out is none to stay at.
        return [Attempt(candidate.entry_id, judge, candidate.similarity, here[0] if here else 0.0, tuple(deeper))]

    def _bounded(self, candidate: Candidate, limits: Limits) -> list[tuple[StateRef, ThresholdRow]]:
        """The states of a candidate that table and request allow, each with its bounds."""
        found = [(s, bounds_at(self.rows, s.skip)) for s in candidate.states if s.skip <= limits.max_skip]
        return [
            (state, bounds)
            for state, bounds in found
            if bounds is not None and candidate.similarity >= max(bounds.min_similarity, limits.min_similarity)
        ]

    def _pick(self, usable: Iterable[Attempt], candidates: Iterable[Candidate]) -> tuple[Attempt, ...]:
        """Return the first few of `usable` that would not fail for the reason an earlier one failed."""
        # Entries with the same prompt fail alike, so they count as one source.
        source = {c.entry_id: c.prompt if c.prompt is not None else c.entry_id for c in candidates}
        shallowest: dict[str | int, float] = {}
        picked: list[Attempt] = []
        for attempt in usable:
            if len(picked) >= self.max_attempts:
                break
            tried = shallowest.get(source[attempt.entry_id])
            if tried is None or attempt.state.skip <= tried - self.clearly_shallower + 1e-9:
                picked.append(attempt)
                shallowest[source[attempt.entry_id]] = attempt.state.skip
        return tuple(picked)

    def _why_nothing(self, candidates: Sequence[Candidate], allowed: Sequence[Candidate], limits: Limits) -> str:
        if not candidates:
            return "no-candidates"
        if not allowed or (len(allowed) < len(candidates) and self._usable(candidates, limits)):
            return "veto"
        levels = [row.min_similarity for row in self.rows if row.skip <= limits.max_skip]
        floor = max(min(levels, default=2.0), limits.min_similarity)
        return "no-states" if any(candidate.similarity >= floor for candidate in allowed) else "low-similarity"


def _vetoes(prompt: str, candidate: Candidate) -> bool:
    if candidate.prompt is not None:
        return lexical_veto(prompt, candidate.prompt)
    # The text is unknown: only a prompt without any such words is safe to match.
    return any(read(prompt) for read in (numbers, negations, quotations))
