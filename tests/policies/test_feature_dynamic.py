"""Policies that look at the request's data: when they probe, what they decide, what they remember."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.features.base import CachePolicy, Decision, PolicyState, Probe, StepContext
from policies.features.dynamic import (
    AccumulatedDistance,
    MotionRegularisation,
    ProbeDistance,
    RateCodebook,
    motion_score,
)

STEPS = 20
COMPUTE, REUSE, PROBE = Decision.COMPUTE, Decision.REUSE, Decision.PROBE
BOOK = ((0.08, 0.16, 0.24), (6, 5, 2))


def at(step: int, first_step: int = 0, steps: int = STEPS, stage: int = 0) -> StepContext:
    return StepContext(step, stage, steps, first_step, step - first_step, 500.0, 0.0)


def run(
    policy: CachePolicy, distances: dict[int, float] | float, first_step: int = 0, change: float | None = None
) -> str:
    """One job as the engine would run it: 1 for every step that was computed."""
    state, mask = PolicyState(), ""
    for step in range(first_step, STEPS):
        context = at(step, first_step)
        decision = policy.plan(context, state)
        if decision is PROBE:
            distance = distances if isinstance(distances, float) else distances[step]
            decision = policy.decide(context, state, Probe(distance))
        computed = decision is COMPUTE
        policy.observe(context, state, computed=computed, change=change if computed and mask else None)
        mask += str(int(computed))
    return mask


POLICIES = [
    AccumulatedDistance(0.3),
    AccumulatedDistance(math.inf),
    ProbeDistance(0.3),
    ProbeDistance(math.inf, warmup=3),
    RateCodebook(*BOOK),
    RateCodebook(*BOOK, MotionRegularisation()),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
class TestContract:
    @pytest.mark.parametrize("first_step", [0, 1, 7, STEPS - 2, STEPS - 1])
    def test_the_first_step_is_computed(self, policy: CachePolicy, first_step: int) -> None:
        assert policy.plan(at(first_step, first_step), PolicyState()) is COMPUTE
        assert run(policy, 0.01, first_step, 0.01).startswith("1")

    def test_nothing_is_reused_before_a_compute(self, policy: CachePolicy) -> None:
        assert all(policy.plan(at(step), PolicyState()) is COMPUTE for step in range(STEPS))

    def test_planning_changes_nothing(self, policy: CachePolicy) -> None:
        state = PolicyState(accumulated=0.1, computed_at=3, next_compute=8)
        before = dataclasses.replace(state)
        policy.plan(at(5), state)
        assert state == before

    def test_who_probes_says_what_to_measure(self, policy: CachePolicy) -> None:
        state = PolicyState(computed_at=4, next_compute=9)
        assert (policy.plan(at(5), state) is PROBE) == (policy.indicator is not None)

    def test_reuses_are_counted(self, policy: CachePolicy) -> None:
        state = PolicyState()
        policy.observe(at(4), state, computed=True, change=None)
        policy.observe(at(5), state, computed=False, change=None)
        policy.observe(at(6), state, computed=False, change=None)
        assert (state.reused, state.computed_at) == (2, 4)
        policy.observe(at(7), state, computed=True, change=0.1)
        assert (state.reused, state.computed_at) == (0, 7)

    def test_policies_are_values(self, policy: CachePolicy) -> None:
        assert hash(policy) == hash(dataclasses.replace(policy))
        with pytest.raises(dataclasses.FrozenInstanceError):
            policy.threshold = 1.0


def test_what_is_measured() -> None:
    tea, sea, first_block = (
        AccumulatedDistance(0.1),
        AccumulatedDistance(0.1, indicator="filtered"),
        ProbeDistance(0.1),
    )
    assert (tea.indicator, tea.reference) == ("modulated-input", "previous")
    assert (sea.indicator, sea.reference) == ("filtered", "previous")
    assert (first_block.indicator, first_block.reference) == ("increment", "computed")
    assert ProbeDistance(0.1, "entry").indicator == "entry"
    assert RateCodebook(*BOOK).indicator is None
    assert [policy.measures_change for policy in (tea, first_block, RateCodebook(*BOOK))] == [False, False, True]


@pytest.mark.parametrize("policy", [AccumulatedDistance(0.0), ProbeDistance(0.0)])
def test_a_threshold_of_zero_never_reuses(policy: CachePolicy) -> None:
    assert run(policy, 0.0) == "1" * STEPS


def test_an_infinite_threshold_reuses_all_it_may() -> None:
    assert run(AccumulatedDistance(math.inf), 9.0) == "1" + "0" * (STEPS - 2) + "1"
    assert run(ProbeDistance(math.inf), 9.0) == "1" + "0" * (STEPS - 1)


@pytest.mark.parametrize("distance", [math.nan, math.inf])
@pytest.mark.parametrize("policy", [AccumulatedDistance(1e300, (1.0, 0.0, 0.0)), ProbeDistance(1e300)])
def test_what_is_not_finite_is_computed(policy: CachePolicy, distance: float) -> None:
    assert run(policy, distance) == "1" * STEPS


def test_distances_add_up_until_the_threshold() -> None:
    # .25 + .25 < .75, and the third reaches it
    assert run(AccumulatedDistance(0.75), 0.25) == "10010010010010010011"
    assert run(AccumulatedDistance(0.75), 0.25, first_step=11) == "100100101"


def test_the_sum_starts_anew_after_a_compute_whoever_asked_for_it() -> None:
    policy, state = AccumulatedDistance(1.0), PolicyState(accumulated=0.9, computed_at=2)
    policy.observe(at(3), state, computed=True, change=None)
    assert state.accumulated == 0.0
    assert policy.decide(at(4), state, Probe(0.5)) is REUSE
    policy.observe(at(4), state, computed=False, change=None)
    assert state.accumulated == 0.5


def test_the_polynomial_has_its_highest_power_first() -> None:
    assert AccumulatedDistance(1.0, (2.0, 3.0, 5.0)).estimate(0.5) == 2.0 * 0.25 + 3.0 * 0.5 + 5.0


def test_a_negative_estimate_pays_for_nothing() -> None:
    policy, state = AccumulatedDistance(1.0, (1.0, -0.5)), PolicyState(computed_at=0)
    assert policy.decide(at(1), state, Probe(0.1)) is REUSE
    assert state.accumulated == 0.0


def test_the_last_step_is_computed_without_asking() -> None:
    assert AccumulatedDistance(1.0).plan(at(STEPS - 1), PolicyState(computed_at=2)) is COMPUTE
    assert ProbeDistance(1.0).plan(at(STEPS - 1), PolicyState(computed_at=2)) is PROBE


def test_warm_up_counts_from_the_start_of_the_schedule() -> None:
    policy = ProbeDistance(0.2, warmup=4)
    assert run(policy, 0.1) == "1111" + "0" * 16
    assert run(policy, 0.1, first_step=2) == "11" + "0" * 16
    assert run(policy, 0.1, first_step=10) == "1" + "0" * 9


def test_a_probe_at_the_threshold_computes() -> None:
    assert run(ProbeDistance(0.2), {step: 0.2 if step % 5 == 0 else 0.1 for step in range(STEPS)}) == "10000" * 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (0.01, "11000001000001000011"),
        (0.2, "11010000100000100011"),  # .2 over one step: 2; .2 over two: 5; .2 over five: 6
        (5.0, "11111111111111111111"),  # beyond every bound
        (math.nan, "11111111111111111111"),
    ],
)
def test_the_rate_follows_the_change_per_step(change: float, expected: str) -> None:
    assert run(RateCodebook(*BOOK), 0.0, change=change) == expected


def test_a_resumed_job_computes_two_steps_and_both_last_ones() -> None:
    assert run(RateCodebook(*BOOK), 0.0, first_step=10, change=0.001) == "1100000111"
    assert run(RateCodebook((1.0,), (50,)), 0.0, first_step=10, change=0.001) == "1100000011"
    assert run(RateCodebook((1.0,), (50,)), 0.0, first_step=17, change=0.001) == "111"


def test_the_next_compute_is_known_ahead() -> None:
    policy, state = RateCodebook(*BOOK), PolicyState()
    policy.observe(at(0), state, computed=True, change=None)
    assert state.next_compute is None
    policy.observe(at(1), state, computed=True, change=0.1)
    assert state.next_compute == 6
    assert [policy.plan(at(step), state) for step in (1, 2, 5, 6, 7)] == [COMPUTE, REUSE, REUSE, COMPUTE, COMPUTE]


def test_a_change_that_was_not_measured_is_computed_next() -> None:
    policy, state = RateCodebook(*BOOK), PolicyState(computed_at=1, next_compute=6)
    policy.observe(at(6), state, computed=True, change=None)
    assert policy.plan(at(7), state) is COMPUTE


def test_moving_content_is_computed_more_often() -> None:
    def next_compute(motion: float | None, before: float | None = None, step: int = 6) -> int | None:
        policy = RateCodebook(*BOOK, MotionRegularisation(scale=0.4, exponent=1.0, gradient=1.0))
        state = PolicyState(computed_at=step - 1, motion=motion, motion_before=before)
        policy.observe(at(step), state, computed=True, change=0.1)
        assert (state.motion_before, state.motion) == (motion, None)
        return state.next_compute

    assert next_compute(None) == 6 + 5
    assert next_compute(0.4) == 6 + 5
    assert next_compute(0.2) == 6 + 6
    assert next_compute(0.8) == 6 + 2
    assert next_compute(0.4, before=0.8) == 6 + 2  # motion that changes, either way
    assert next_compute(0.4, before=0.0) == 6 + 2
    assert next_compute(0.8, step=2) == 2 + 5  # outside the window
    assert next_compute(0.8, step=18) == 18 + 5


def test_pictures_have_no_motion() -> None:
    book = RateCodebook(*BOOK, MotionRegularisation())
    assert run(book, 0.0, change=0.05) == run(RateCodebook(*BOOK), 0.0, change=0.05)


def test_motion_of_known_films() -> None:
    still = np.ones((5, 2, 3), dtype=np.float16)
    assert motion_score(still) == 0.0
    assert motion_score(still[:1]) == 0.0
    assert motion_score(np.zeros((3, 4))) == 0.0
    flicker = np.array([[1.0], [-1.0], [1.0]])
    assert motion_score(flicker) == pytest.approx(0.5)  # lag 1 moves fully, lag 2 not at all
    assert motion_score(np.array([[1.0], [3.0]])) == pytest.approx(0.5)


@given(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=2, max_size=6))
def test_motion_lies_between_nothing_and_everything(frames: list[list[float]]) -> None:
    assert 0.0 <= motion_score(np.array(frames)) <= 1.0 + 1e-12


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_bad_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        AccumulatedDistance(threshold)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        ProbeDistance(threshold)


def test_bad_parameters() -> None:
    for coefficients in ((), (math.nan,)):
        with pytest.raises(ValueError, match="coefficients"):
            AccumulatedDistance(0.1, coefficients)
    with pytest.raises(ValueError, match="warmup"):
        ProbeDistance(0.1, warmup=-1)
    for bounds, rates in [((0.1,), ()), ((0.2, 0.1), (3, 2)), ((0.0,), (1,)), ((math.nan,), (1,)), ((0.1,), (0,))]:
        with pytest.raises(ValueError, match=r"bounds|rates"):
            RateCodebook(bounds, rates)
    with pytest.raises(ValueError, match="scale"):
        MotionRegularisation(scale=0.0)
    with pytest.raises(ValueError, match="window"):
        MotionRegularisation(window=(0.9, 0.1))
