"""What all table-driven matching policies share: which states qualify, and in which order to try them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.matching.base import Attempt, Candidate, Deeper, MatchDecision, MatchingPolicy, StateRef
from policies.matching.table import ThresholdRow, bounds_at
from policies.matching.veto import Reading, checked_kinds, conflicts, read, says_nothing

# A run of another length has its judging state a little off the profiled level. Earlier is the safe side: predictions
# part further there.
_JUDGED_EARLIER, _JUDGED_LATER = 0.08, 0.05

AFTER_REFUSAL = 0.3
"""How much of its chance a candidate keeps for every one refused before it: what the gate refuses at the best, it
mostly refuses at the others, too (`python -m benchmarks candidates`: a third of the first are accepted, a tenth of
the second)."""


def can_judge(skip: float, level: float) -> bool:
    """Tell whether a state at `skip` is near enough to a table's judging level."""
    return -_JUDGED_EARLIER <= skip - level <= _JUDGED_LATER


@dataclass(frozen=True)
class Limits:
    """What a request asks and allows: its prompt, similarity floor and deepest share of steps to skip.

    Attributes:
        step_share: one step as a share of its run, what a refused attempt costs.
    """

    prompt: str
    min_similarity: float
    max_skip: float
    step_share: float


@dataclass(frozen=True)
class TableMatching(MatchingPolicy):
    """Base of the policies that read their bounds from rows.

    Attributes:
        rows: bounds per level, shallowest first.
        max_attempts: most attempts proposed; every refused one costs the request one denoising step.
        needs_prediction: whether a state without a stored prediction (nothing to gate on) is unusable.
        veto: the kinds of words by which the lexical veto removes candidates; empty = no veto.
        judged_at: level whose state the gate judges other prompts at, whatever level is resumed at; None = each
            level at itself.
        step_share: one step as a share of the profiled runs, what a refused attempt costs a request of as many
            steps; 0 = nothing is judged, so that none is.
        clearly_shallower: after a refused state, how much less of the run the next state of the same
            prompt must skip; a slightly earlier state of a misfit is a misfit too.
    """

    rows: tuple[ThresholdRow, ...]
    max_attempts: int
    needs_prediction: bool
    veto: frozenset[str]
    judged_at: float | None = None
    step_share: float = 0.0
    clearly_shallower: float = 0.15

    def __post_init__(self) -> None:
        checked_kinds(self.veto)

    def objections(self, prompt: str, candidate: Candidate) -> tuple[str, ...]:
        """Return the kinds of words by which the lexical veto removes the candidate."""
        if not self.veto or candidate.prompt == prompt:
            return ()
        return _objections(read(prompt, self.veto), candidate, self.veto)

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return the attempts for `prompt`, most promising first; see `MatchingPolicy.choose`."""
        step_share = 1.0 / steps if steps and self.step_share else self.step_share
        limits = Limits(prompt, min_similarity, max_skip, step_share)
        allowed = self._allowed(prompt, candidates)
        attempts = self._pick(self._paying(allowed, limits), allowed, step_share)
        if attempts:
            return MatchDecision(attempts, "match")
        return MatchDecision((), self._why_nothing(candidates, allowed, limits))

    def _allowed(self, prompt: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that the veto leaves."""
        # With nothing found, or only the same text, there is nothing to compare.
        if not self.veto or all(candidate.prompt == prompt for candidate in candidates):
            return list(candidates)
        reading = read(prompt, self.veto)
        return [one for one in candidates if one.prompt == prompt or not _objections(reading, one, self.veto)]

    def _paying(self, candidates: Iterable[Candidate], limits: Limits) -> list[Attempt]:
        """Return every usable state that promises savings, most of them first, then most similar."""
        paying = [attempt for attempt in self._usable(candidates, limits) if _pays(attempt, limits.step_share)]
        return sorted(paying, key=lambda a: (-a.expected, -a.similarity, a.entry_id, -a.state.log_snr))

    def _usable(self, candidates: Iterable[Candidate], limits: Limits) -> list[Attempt]:
        """Return every state that meets all bounds."""
        usable: list[Attempt] = []
        for candidate in candidates:
            # The same text needs no early judgement: any of its states shows the same picture.
            if self.judged_at is None or candidate.prompt == limits.prompt:
                usable += self._at_own_level(candidate, limits)
            else:
                usable += self._judged_early(candidate, limits, self.judged_at)
        return usable

    def _at_own_level(self, candidate: Candidate, limits: Limits) -> list[Attempt]:
        """Every state that meets its own level's bounds is an attempt of its own."""
        same = candidate.prompt == limits.prompt
        found = []
        for state, bounds in self._bounded(candidate, limits):
            if state.has_prediction or not self.needs_prediction:
                chance = 1.0 if same else bounds.chance(candidate.similarity)
                gain = chance * state.skip - (1.0 - chance) * limits.step_share
                attempt = Attempt(candidate.entry_id, state, candidate.similarity, bounds.max_divergence, (), gain)
                found.append(attempt)
        return found

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
        below = sorted((pair for pair in bounded if pair[0].skip > judge.skip), key=lambda pair: -pair[0].skip)
        if not (here or below):
            return []
        rungs = below + [pair for pair in bounded if pair[0] == judge]
        chances = [(state.skip, bounds.chance(candidate.similarity)) for state, bounds in rungs]
        gain = _expected(chances, judge, limits.step_share)
        deeper = tuple(Deeper(state, bounds.max_divergence) for state, bounds in below)
        # A judging level that the table leaves out is none to stay at.
        stay = here[0] if here else 0.0
        return [Attempt(candidate.entry_id, judge, candidate.similarity, stay, deeper, gain)]

    def _bounded(self, candidate: Candidate, limits: Limits) -> list[tuple[StateRef, ThresholdRow]]:
        """The states of a candidate that table and request allow, each with its bounds."""
        found = [(s, bounds_at(self.rows, s.skip)) for s in candidate.states if s.skip <= limits.max_skip]
        return [
            (state, bounds)
            for state, bounds in found
            if bounds is not None and candidate.similarity >= max(bounds.min_similarity, limits.min_similarity)
        ]

    def _pick(
        self, paying: Iterable[Attempt], candidates: Iterable[Candidate], step_share: float
    ) -> tuple[Attempt, ...]:
        """Return the first few of `paying` that would not fail as an earlier one failed, as long as they pay."""
        # Entries with the same prompt fail alike, so they count as one source.
        source = {c.entry_id: c.prompt if c.prompt is not None else c.entry_id for c in candidates}
        shallowest: dict[str | int, float] = {}
        picked: list[Attempt] = []
        for attempt in paying:
            if len(picked) >= self.max_attempts:
                break
            if not _pays(attempt, step_share, refused=len(picked)):
                break
            tried = shallowest.get(source[attempt.entry_id])
            if tried is None or attempt.state.skip <= tried - self.clearly_shallower + 1e-9:
                picked.append(attempt)
                shallowest[source[attempt.entry_id]] = attempt.state.skip
        return tuple(picked)

    def _why_nothing(self, candidates: Sequence[Candidate], allowed: Sequence[Candidate], limits: Limits) -> str:
        if not candidates:
            return "no-candidates"
        if not allowed or (len(allowed) < len(candidates) and self._paying(candidates, limits)):
            return "veto"
        if self._usable(allowed, limits):
            return "no-gain"
        levels = [row.min_similarity for row in self.rows if row.skip <= limits.max_skip]
        floor = max(min(levels, default=2.0), limits.min_similarity)
        return "no-states" if any(candidate.similarity >= floor for candidate in allowed) else "low-similarity"


def _expected(rungs: Sequence[tuple[float, float]], judge: StateRef, step_share: float) -> float:
    """Expected share of steps saved by (skip, chance of getting at least there), deepest first.

    The step spent on judging is lost unless the run goes on from the very state it was judged at.
    """
    gain, passed = 0.0, 0.0
    for skip, chance in rungs:
        gain += max(chance - passed, 0.0) * (skip - (step_share if skip > judge.skip else 0.0))
        passed = max(passed, chance)
    return gain - (1.0 - passed) * step_share


def _pays(attempt: Attempt, step_share: float, refused: int = 0) -> bool:
    """Tell whether an attempt still promises more steps than it costs, so many others having been refused.

    What it expects to save is linear in its chance, with minus a step at no chance at all.
    """
    return AFTER_REFUSAL**refused * (attempt.expected + step_share) > step_share


def _objections(reading: Reading, candidate: Candidate, kinds: frozenset[str]) -> tuple[str, ...]:
    if candidate.prompt is not None:
        return conflicts(reading, read(candidate.prompt, kinds), kinds)
    # The text is unknown: only a prompt without any such words is safe to match.
    return () if says_nothing(reading) else ("unknown-text",)
