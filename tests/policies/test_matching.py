"""One contract for every matching policy, then what each of them decides."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.matching import (
    Candidate,
    GatedTableMatching,
    MatchingPolicy,
    NoMatching,
    PaperTableMatching,
    StateRef,
    ThresholdRow,
    ThresholdTable,
    TightenedMatching,
    make_matching,
)
from policies.matching.audit import AuditController

KEY = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
ROWS = tuple(ThresholdRow(skip, 0.5 + skip, 0.3 - skip / 2) for skip in LEVELS)
TABLE = ThresholdTable(ROWS, KEY)
REASONS = {"match", "no-candidates", "low-similarity", "no-states", "no-gain", "veto", "uncalibrated", "audit"}
PROMPTS = ("a red circle", "two red circles", 'a sign that says "stop"', "a hill without trees", "blue square")

POLICIES_UNDER_TEST: dict[str, MatchingPolicy] = {
    "gated": GatedTableMatching(TABLE),
    "gated-one": GatedTableMatching(TABLE, max_attempts=1),
    "gated-early": GatedTableMatching(replace(TABLE, judged_at=0.1)),
    "paper": PaperTableMatching(),
    "none": NoMatching(),
    "tightened": TightenedMatching(GatedTableMatching(TABLE), AuditController(ROWS)),
}


def state(skip: float, prediction: bool = True) -> StateRef:
    return StateRef(log_snr=10 * skip - 5, skip=skip, has_prediction=prediction)


def candidate(entry_id: int, similarity: float, *skips: float, prompt: str | None = "a red circle") -> Candidate:
    return Candidate(entry_id, similarity, prompt, tuple(state(skip) for skip in skips))


states = st.builds(state, st.floats(0.02, 0.98), st.booleans())
candidate_lists = st.lists(
    st.builds(
        Candidate,
        st.integers(1, 2**63 - 1),
        st.floats(-1, 1),
        st.sampled_from((*PROMPTS, None)),
        st.lists(states, max_size=6).map(tuple),
    ),
    max_size=8,
    unique_by=lambda c: c.entry_id,
).map(lambda found: sorted(found, key=lambda c: -c.similarity))


@pytest.mark.parametrize("name", sorted(POLICIES_UNDER_TEST))
class TestMatchingContract:
    @given(
        prompt=st.sampled_from(PROMPTS),
        candidates=candidate_lists,
        min_similarity=st.floats(0, 1),
        max_skip=st.floats(0, 1),
    )
    def test_attempts_are_within_all_bounds(
        self, name: str, prompt: str, candidates: list[Candidate], min_similarity: float, max_skip: float
    ) -> None:
        policy = POLICIES_UNDER_TEST[name]
        decision = policy.choose(prompt, candidates, min_similarity=min_similarity, max_skip=max_skip)
        assert decision == policy.choose(prompt, candidates, min_similarity=min_similarity, max_skip=max_skip)
        assert decision.reason in REASONS
        assert (decision.reason == "match") == bool(decision.attempts)
        assert len(decision.attempts) <= 3
        offered = {(c.entry_id, s): c for c in candidates for s in c.states}
        for attempt in decision.attempts:
            assert offered[attempt.entry_id, attempt.state].similarity == attempt.similarity
            assert attempt.similarity >= min_similarity
            assert attempt.state.skip <= max_skip
            assert attempt.max_divergence >= 0
            for rung in attempt.deeper:
                assert (attempt.entry_id, rung.state) in offered
                assert attempt.state.skip < rung.state.skip <= max_skip
            depths = [rung.state.skip for rung in attempt.deeper]
            assert depths == sorted(depths, reverse=True)
        assert len({(a.entry_id, a.state) for a in decision.attempts}) == len(decision.attempts)

    def test_nothing_in_nothing_out(self, name: str) -> None:
        decision = POLICIES_UNDER_TEST[name].choose("a prompt", [])
        assert decision.attempts == ()
        assert decision.reason in {"no-candidates", "uncalibrated"}


class TestJudgedEarly:
    policy = GatedTableMatching(replace(TABLE, judged_at=0.1))

    def test_one_attempt_per_entry_enters_where_it_is_judged_and_may_go_deeper(self) -> None:
        (attempt,) = self.policy.choose("a crimson disc", [candidate(1, 0.85, *LEVELS)]).attempts
        assert attempt.state.skip == 0.1
        assert attempt.max_divergence == pytest.approx(0.25)
        assert [rung.state.skip for rung in attempt.deeper] == [0.3, 0.2]
        assert [rung.max_divergence for rung in attempt.deeper] == pytest.approx([0.15, 0.2])
        assert attempt.deepest_skip == 0.3

    def test_the_same_text_enters_at_its_deepest_state_at_once(self) -> None:
        attempt, *_ = self.policy.choose("a red circle", [candidate(1, 1.0, *LEVELS)]).attempts
        assert (attempt.state.skip, attempt.deeper) == (0.5, ())

    def test_the_entry_that_may_go_deepest_is_tried_first(self) -> None:
        found = [candidate(1, 0.99, 0.1, 0.2), candidate(2, 0.95, 0.1, 0.4, prompt="the circle is red")]
        attempts = self.policy.choose("a crimson disc", found).attempts
        assert [(a.entry_id, a.deepest_skip) for a in attempts] == [(2, 0.4), (1, 0.2)]

    def test_an_entry_without_a_state_to_judge_at_serves_only_its_own_text(self) -> None:
        later = candidate(1, 0.99, 0.4, 0.5)
        assert self.policy.choose("a crimson disc", [later]).reason == "no-states"
        assert self.policy.choose("a red circle", [later]).attempts
        unjudged = Candidate(1, 0.99, "a red circle", (state(0.1, prediction=False), state(0.4)))
        assert self.policy.choose("a crimson disc", [unjudged]).attempts == ()

    def test_a_run_of_another_length_is_judged_at_its_nearest_state(self) -> None:
        (attempt,) = self.policy.choose("a crimson disc", [candidate(1, 0.99, 0.125, 0.25)]).attempts
        assert attempt.state.skip == 0.125

    def test_a_judging_level_without_bounds_is_only_passed_through(self) -> None:
        policy = GatedTableMatching(replace(TABLE, rows=ROWS[1:], judged_at=0.1))
        (attempt,) = policy.choose("a crimson disc", [candidate(1, 1.0, *LEVELS)]).attempts
        assert (attempt.state.skip, attempt.max_divergence) == (0.1, 0.0)
        assert len(attempt.deeper) == 4


class TestGated:
    policy = GatedTableMatching(TABLE)

    @given(candidates=candidate_lists)
    def test_only_states_the_gate_can_judge_and_deepest_first(self, candidates: list[Candidate]) -> None:
        attempts = self.policy.choose("a red circle", candidates).attempts
        assert all(attempt.state.has_prediction for attempt in attempts)
        depths = [attempt.state.skip for attempt in attempts]
        assert depths == sorted(depths, reverse=True)

    def test_takes_the_deepest_level_the_similarity_allows(self) -> None:
        attempts = self.policy.choose("a red circle", [candidate(1, 0.85, *LEVELS)]).attempts
        assert [a.state.skip for a in attempts] == [0.3, 0.1]
        assert attempts[0].max_divergence == pytest.approx(0.15)

    def test_holes_in_the_first_candidate_do_not_matter(self) -> None:
        found = [candidate(1, 0.99, 0.1), candidate(2, 0.95, 0.4, prompt="the circle is red")]
        attempts = self.policy.choose("a red circle", found).attempts
        assert [(a.entry_id, a.state.skip) for a in attempts] == [(2, 0.4), (1, 0.1)]

    def test_a_second_copy_of_a_refused_prompt_is_not_tried_at_the_same_depth(self) -> None:
        found = [candidate(n, 1.0, 0.4, 0.5) for n in (1, 2)] + [candidate(3, 0.97, 0.4, prompt="crimson disc")]
        attempts = self.policy.choose("a red circle", found).attempts
        assert [(a.entry_id, a.state.skip) for a in attempts] == [(1, 0.5), (3, 0.4)]

    def test_what_promises_to_save_nothing_is_not_tried(self) -> None:
        unlikely = tuple(replace(row, acceptance=((0.5, 0.1), (1.0, 0.4))) for row in ROWS)
        policy = GatedTableMatching(replace(TABLE, rows=unlikely, judged_at=0.1, step_share=0.1))
        assert policy.choose("a crimson disc", [candidate(1, 0.97, *LEVELS)]).reason == "match"
        assert policy.choose("a crimson disc", [candidate(1, 0.65, *LEVELS)]).reason == "no-gain"
        assert policy.choose("a red circle", [candidate(1, 0.65, *LEVELS)]).reason == "match"

    def test_between_levels_the_stricter_neighbour_holds(self) -> None:
        assert self.policy.choose("a red circle", [candidate(1, 0.75, 0.25)]).attempts == ()
        (attempt,) = self.policy.choose("a red circle", [candidate(1, 0.85, 0.25)]).attempts
        assert attempt.max_divergence == pytest.approx(0.15)

    def test_deeper_than_the_deepest_level_is_never_tried(self) -> None:
        assert self.policy.choose("a red circle", [candidate(1, 1.0, 0.6)]).reason == "no-states"

    def test_reasons(self) -> None:
        assert self.policy.choose("a red circle", [candidate(1, 0.2, *LEVELS)]).reason == "low-similarity"
        assert self.policy.choose("a red circle", [candidate(1, 0.99)]).reason == "no-states"
        assert self.policy.choose("two circles", [candidate(1, 0.99, *LEVELS)]).reason == "veto"
        some = [candidate(1, 0.99, 0.3, prompt="three circles"), candidate(2, 0.1, 0.3, prompt="two squares")]
        assert self.policy.choose("two circles", some).reason == "veto"

    def test_an_unknown_text_matches_only_prompts_without_decisive_words(self) -> None:
        hashed = candidate(1, 0.99, 0.3, prompt=None)
        assert self.policy.choose("a calm lake", [hashed]).reason == "match"
        assert self.policy.choose("two calm lakes", [hashed]).reason == "veto"

    def test_the_kinds_of_words_that_veto_can_be_chosen(self) -> None:
        swapped = [candidate(1, 0.99, 0.3, prompt="a blue ball and a red box")]
        prompt = "a red ball and a blue box"
        assert self.policy.choose(prompt, swapped).reason == "veto"
        assert GatedTableMatching(TABLE, veto=frozenset({"numbers"})).choose(prompt, swapped).reason == "match"
        three = [candidate(1, 0.99, 0.3, prompt="three circles")]
        assert GatedTableMatching(TABLE, veto=frozenset()).choose("two circles", three).reason == "match"
        with pytest.raises(ValueError, match="unknown kind of veto 'smells'"):
            GatedTableMatching(TABLE, veto=frozenset({"smells"}))


class TestPaper:
    @pytest.mark.parametrize(
        ("similarity", "skip"),
        [(0.96, 0.5), (0.95, 0.4), (0.901, 0.4), (0.9, 0.3), (0.85, 0.2), (0.75, 0.1), (0.66, 0.1)],
    )
    def test_table(self, similarity: float, skip: float) -> None:
        (attempt,) = PaperTableMatching().choose("x", [candidate(1, similarity, *LEVELS)]).attempts
        assert attempt.state.skip == skip
        assert attempt.max_divergence == math.inf

    def test_miss_at_the_lowest_threshold(self) -> None:
        assert PaperTableMatching().choose("x", [candidate(1, 0.65, *LEVELS)]).reason == "low-similarity"

    def test_only_the_first_neighbour(self) -> None:
        found = [candidate(1, 0.99), candidate(2, 0.98, 0.5)]
        assert PaperTableMatching().choose("x", found).reason == "no-states"


def test_factory() -> None:
    assert isinstance(make_matching("gated", TABLE), GatedTableMatching)
    assert isinstance(make_matching("paper"), PaperTableMatching)
    assert make_matching("gated").choose("x", [candidate(1, 1.0, 0.3)]).reason == "uncalibrated"
    with pytest.raises(ValueError, match="unknown matching policy 'x'; known: gated, paper, none"):
        make_matching("x")


def test_a_state_without_prediction_serves_the_paper_only() -> None:
    bare = replace(candidate(1, 0.99, 0.5), states=(state(0.5, prediction=False),))
    assert PaperTableMatching().choose("x", [bare]).reason == "match"
    assert GatedTableMatching(TABLE).choose("x", [bare]).reason == "no-states"


def test_after_a_refusal_only_what_still_pays_is_tried() -> None:
    def proposed(step_share: float) -> int:
        rows = (ThresholdRow(0.5, 0.7, 0.3, ((0.7, 0.4), (1.0, 0.4))),)
        policy = GatedTableMatching(ThresholdTable(rows, KEY, step_share=step_share))
        found = [candidate(number, 0.9, 0.5, prompt=text) for number, text in enumerate("abc")]
        return len(policy.choose("a red circle", found).attempts)

    assert [proposed(share) for share in (1 / 8, 1 / 20, 1 / 50, 0.0)] == [1, 2, 2, 3]


def test_a_refusal_costs_a_step_of_the_run_that_is_asked_for() -> None:
    rows = (ThresholdRow(0.5, 0.7, 0.3, ((0.7, 0.3), (1.0, 0.3))),)
    found = [candidate(number, 0.9, 0.5, prompt=text) for number, text in enumerate("abc")]

    def proposed(step_share: float, steps: int | None) -> tuple[int, str]:
        policy = GatedTableMatching(ThresholdTable(rows, KEY, step_share=step_share))
        decision = policy.choose("a red circle", found, steps=steps)
        return len(decision.attempts), decision.reason

    assert proposed(1 / 8, None) == proposed(1 / 50, 8) == (1, "match")
    assert proposed(1 / 8, 50) == proposed(1 / 50, None) == (2, "match")
    assert proposed(1 / 8, 4) == (0, "no-gain")
    # A table of runs without a gate knows no such cost.
    assert proposed(0.0, 4) == (3, "match")
