"""One contract for every policy that is known ahead, then what each of them schedules."""

import copy
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.features.base import Decision, PolicyState, StaticPolicy, StepContext
from policies.features.static import (
    Always,
    DecayingIntervals,
    Interval,
    MagnitudeRatio,
    Mask,
    PowerSpaced,
    resampled_ratios,
)

FLUX = (
    *(1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562),
    *(1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359),
    0.89062,
)
OFFICIAL = MagnitudeRatio(FLUX, 0.24, 5, 0.1, never=(11,))

POLICIES_UNDER_TEST: dict[str, StaticPolicy] = {
    "always": Always(),
    "interval": Interval(3),
    "interval-window": Interval(4, start=0.2, end=0.9, warmup=3, phase=2),
    "power-spaced": PowerSpaced(3, centre=0.3, power=1.4),
    "decaying": DecayingIntervals(11, 20),
    "magnitude": MagnitudeRatio(FLUX, 0.06, 3, 0.2),
    "magnitude-official": OFFICIAL,
}
lengths = st.integers(1, 60)


def context(step: int, steps: int, first_step: int = 0) -> StepContext:
    return StepContext(step, 0, steps, first_step, step - first_step, 0.0, 0.0)


def schedule(policy: StaticPolicy, steps: int, first_step: int = 0) -> str:
    """What a job computes from its entry on, 1 = compute."""
    planned = (policy.plan(context(i, steps, first_step), PolicyState()) for i in range(first_step, steps))
    return "".join("1" if decision is Decision.COMPUTE else "0" for decision in planned)


def places(flags: str) -> list[int]:
    return [i for i, flag in enumerate(flags) if flag == "1"]


@pytest.mark.parametrize("name", sorted(POLICIES_UNDER_TEST))
class TestStaticContract:
    @given(steps=lengths, data=st.data())
    def test_a_job_computes_its_entry_and_knows_the_rest_ahead(
        self, name: str, steps: int, data: st.DataObject
    ) -> None:
        policy, first_step = POLICIES_UNDER_TEST[name], data.draw(st.integers(0, steps - 1))
        mask = policy.mask(steps, first_step)
        assert len(mask) == steps
        assert all(isinstance(flag, bool) for flag in mask)
        assert mask == copy.deepcopy(policy).mask(steps, first_step)
        flags = schedule(policy, steps, first_step)
        assert flags[0] == "1"
        assert flags[1:] == "".join("01"[flag] for flag in mask[first_step + 1 :])

    def test_planning_changes_nothing(self, name: str) -> None:
        policy, state = POLICIES_UNDER_TEST[name], PolicyState(0.5, 2, 3, 4, 0.1)
        before = copy.deepcopy((policy, state))
        answers = {policy.plan(context(i, 28), state) for i in range(28)}
        assert answers <= {Decision.COMPUTE, Decision.REUSE}
        assert (policy, state) == before

    def test_equal_policies_are_one_key(self, name: str) -> None:
        policy = POLICIES_UNDER_TEST[name]
        assert {policy: 1}[copy.deepcopy(policy)] == 1


class TestInterval:
    def test_counts_in_absolute_steps_whenever_a_job_enters(self) -> None:
        assert schedule(Interval(3), 10) == "1001001001"
        assert schedule(Interval(3), 10, 4) == "101001"
        assert schedule(Interval(3, phase=1), 10, 3) == "1100100"

    def test_computes_everything_outside_its_window(self) -> None:
        assert schedule(Interval(5, start=0.2, end=0.8), 10) == "1100010011"
        assert schedule(Interval(6, warmup=5), 20) == "11111010000010000010"
        assert schedule(Interval(6, start=0.1, warmup=5), 20) == schedule(Interval(6, warmup=5), 20)

    def test_a_share_that_is_a_whole_step_is_that_step(self) -> None:
        assert schedule(Interval(100, start=1 / 3), 30).count("1") == 10
        assert schedule(Interval(100, start=0.7), 10) == "1111111000"

    @given(steps=lengths, every=st.integers(1, 20))
    def test_computes_one_step_in_so_many(self, steps: int, every: int) -> None:
        assert schedule(Interval(every), steps).count("1") == math.ceil(steps / every)

    def test_an_interval_of_no_step_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one step"):
            Interval(0)


class TestPowerSpaced:
    @given(steps=lengths, every=st.integers(1, 20), centre=st.floats(0, 1), power=st.floats(1, 2))
    def test_computes_as_often_as_the_even_interval_and_at_the_start(
        self, steps: int, every: int, centre: float, power: float
    ) -> None:
        flags = schedule(PowerSpaced(every, centre, power), steps)
        assert flags.count("1") == math.ceil(steps / every)
        assert flags[0] == "1"

    @given(steps=lengths, every=st.integers(1, 20), centre=st.floats(0, 1))
    def test_power_one_spaces_evenly(self, steps: int, every: int, centre: float) -> None:
        gaps = {b - a for a, b in pairwise(places(schedule(PowerSpaced(every, centre, 1.0), steps)))}
        assert not gaps or max(gaps) - min(gaps) <= 1

    def test_is_dense_at_the_centre_and_sparse_far_from_it(self) -> None:
        computed = places(schedule(PowerSpaced(5, centre=0.3, power=1.4), 50))
        gaps = {a: b - a for a, b in pairwise(computed)}
        nearest = min(gaps, key=lambda place: abs(place + gaps[place] / 2 - 15))
        assert gaps[nearest] == min(gaps.values())
        after = [gap for place, gap in gaps.items() if place >= 15]
        assert after == sorted(after)
        assert after[-1] > gaps[nearest]

    def test_nonsense_is_refused(self) -> None:
        for every, centre, power in ((0, 0.5, 1.2), (3, 1.5, 1.2), (3, 0.5, 0.5)):
            with pytest.raises(ValueError, match="no schedule"):
                PowerSpaced(every, centre, power)


class TestDecayingIntervals:
    @pytest.mark.parametrize(("at_28", "at_50"), [(18, 38), (15, 29), (11, 20), (8, 14)])
    def test_has_the_totals_it_is_given_and_growing_intervals(self, at_28: int, at_50: int) -> None:
        for steps, total in ((28, at_28), (50, at_50)):
            computed = places(schedule(DecayingIntervals(at_28, at_50), steps))
            assert len(computed) == total
            gaps = [b - a for a, b in pairwise(computed)]
            assert all(later >= max(gaps[: i + 1]) - 1 for i, later in enumerate(gaps))
            assert gaps[0] == 1 < gaps[-1]

    @given(steps=lengths, total=st.floats(1, 28))
    def test_computes_as_often_as_it_says(self, steps: int, total: float) -> None:
        policy = DecayingIntervals(total, total * 50 / 28)
        assert schedule(policy, steps).count("1") == policy.computes(steps)
        assert policy.computes(steps) == pytest.approx(total * steps / 28, abs=0.5001) or policy.computes(steps) == 1


class TestMask:
    def test_is_for_its_own_number_of_steps_only(self) -> None:
        policy = Mask((True, False, False, True), 4)
        assert schedule(policy, 4) == "1001"
        assert schedule(policy, 4, 1) == "101"
        with pytest.raises(ValueError, match="4 steps, not 5"):
            policy.mask(5, 0)
        with pytest.raises(ValueError, match="cannot have 1 flags"):
            Mask((True,), 4)


class TestMagnitudeRatio:
    @pytest.mark.parametrize(
        ("policy", "first_step", "computed"),
        [
            (OFFICIAL, 0, "1110010001010000010000010010"),
            (MagnitudeRatio(FLUX, 0.06, 3, 0.2), 0, "1111110101000100010001001011"),
            (MagnitudeRatio(FLUX, 0.24, 5, 0.2), 0, "1111110001000001000001000010"),
            (OFFICIAL, 10, "110000010000010010"),
            (OFFICIAL, 20, "10000010"),
        ],
    )
    def test_schedules_of_the_shipped_flux_ratios(
        self, policy: MagnitudeRatio, first_step: int, computed: str
    ) -> None:
        assert schedule(policy, 28, first_step) == computed

    def test_a_threshold_of_nothing_reuses_only_where_nothing_changes(self) -> None:
        assert schedule(MagnitudeRatio((1.0, 1.0, 0.9, 1.0, 1.1), 0.0, 5, 0.0), 5) == "10101"

    def test_never_more_reuses_in_a_row_than_allowed(self) -> None:
        assert schedule(MagnitudeRatio((1.0,) * 10, 1.0, 2, 0.0), 10) == "1001001001"

    @given(steps=st.integers(2, 100))
    def test_resampled_ratios_keep_the_change_over_the_run(self, steps: int) -> None:
        resampled = resampled_ratios(FLUX, steps)
        assert len(resampled) == steps
        assert resampled[0] == FLUX[0]
        assert math.prod(resampled[1:]) == pytest.approx(math.prod(FLUX[1:]))

    def test_ratios_of_longer_strides_are_products(self) -> None:
        assert resampled_ratios((1.0, 2.0, 3.0, 4.0, 5.0), 3) == pytest.approx((1.0, 6.0, 20.0))
        assert resampled_ratios((1.0, 4.0), 3) == pytest.approx((1.0, 2.0, 2.0))
        assert resampled_ratios((1.0, 4.0), 1) == (1.0,)

    def test_exempt_steps_move_with_the_number_of_steps(self) -> None:
        still = MagnitudeRatio((1.0,) * 11, 1.0, 100, 0.0, never=(5,))
        assert places(schedule(still, 11)) == [0, 5]
        assert places(schedule(still, 21)) == [0, 10]

    def test_ratios_are_positive(self) -> None:
        for ratios in ((), (1.0, 0.0)):
            with pytest.raises(ValueError, match="above 0"):
                MagnitudeRatio(ratios, 0.1, 3, 0.2)
