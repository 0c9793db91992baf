"""One contract for every predictor, then what each of them is exact on."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.features.base import ChannelCorrection, Moment, Predictor
from policies.features.predictors import AdamsBashforth, CFGDelta, ChannelAffine, Linear, Reuse, Taylor

CORRECTION = ChannelCorrection((1.5, 0.5), (0.0, -1.0))

PREDICTORS_UNDER_TEST: dict[str, Predictor] = {
    "reuse": Reuse(),
    "taylor-0": Taylor(0),
    "taylor-1": Taylor(1),
    "taylor-3": Taylor(3, "log_snr"),
    "adams-bashforth-1": AdamsBashforth(1),
    "adams-bashforth-3": AdamsBashforth(3),
    "adams-bashforth-5": AdamsBashforth(5, "log_snr"),
    "linear": Linear(),
    "linear-half": Linear(0.5),
    "channel-affine": ChannelAffine({(3, 5): CORRECTION}),
    "cfg-delta": CFGDelta(),
}

gaps = st.lists(st.integers(1, 6), min_size=6, max_size=6)


def moment(step: int) -> Moment:
    """A place on a schedule whose log-SNR is far from even in the step."""
    return Moment(step, step / 4 + 0.02 * step**2 - 5)


def past(now: int, distances: Sequence[int], depth: int) -> list[Moment]:
    """The last `depth` computes before a step, newest first."""
    return [moment(now - sum(distances[: i + 1])) for i in range(depth)]


@pytest.mark.parametrize("name", sorted(PREDICTORS_UNDER_TEST))
class TestPredictorContract:
    @given(distances=gaps)
    def test_weights_are_one_per_tensor_and_leave_a_constant_alone(self, name: str, distances: list[int]) -> None:
        predictor, now = PREDICTORS_UNDER_TEST[name], 40
        history = past(now, distances, predictor.depth)
        weights = predictor.weights(moment(now), history, 50)
        assert len(weights) == predictor.depth >= 1
        assert all(type(weight) is float and math.isfinite(weight) for weight in weights)
        assert sum(weights) == pytest.approx(1)
        assert weights == predictor.weights(moment(now), tuple(history), 50)

    def test_places_that_coincide_do_no_harm(self, name: str) -> None:
        predictor = PREDICTORS_UNDER_TEST[name]
        for log_snr in (0.0, math.inf):
            history = [Moment(9 - i, log_snr) for i in range(predictor.depth)]
            weights = predictor.weights(Moment(10, log_snr), history, 50)
            assert all(map(math.isfinite, weights))
            assert sum(weights) == pytest.approx(1)


class TestAdamsBashforth:
    @pytest.mark.parametrize(
        ("order", "weights"),
        [(1, (1,)), (2, (2, -1)), (3, (3, -3, 1)), (4, (4, -6, 4, -1)), (5, (5, -10, 10, -5, 1))],
    )
    def test_finite_differences_at_unit_stride(self, order: int, weights: tuple[int, ...]) -> None:
        history = past(20, [1] * 5, order)
        assert AdamsBashforth(order).weights(moment(20), history, 50) == pytest.approx(weights)

    @given(
        distances=gaps,
        order=st.integers(1, 5),
        coefficients=st.lists(st.floats(-2, 2), min_size=5, max_size=5),
        coordinate=st.sampled_from(("step", "log_snr")),
    )
    def test_exact_on_polynomials_below_its_order(
        self, distances: list[int], order: int, coefficients: list[float], coordinate: str
    ) -> None:
        predictor, now = AdamsBashforth(order, coordinate), moment(45)
        history = past(45, distances, order)

        def value(place: Moment) -> float:
            return sum(c * (place.at(coordinate) / 10) ** power for power, c in enumerate(coefficients[:order]))

        weights = predictor.weights(now, history, 50)
        predicted = [weight * value(place) for weight, place in zip(weights, history, strict=True)]
        assert sum(predicted) == pytest.approx(value(now), abs=1e-9 * (1 + sum(map(abs, predicted))))

    def test_orders_out_of_range_are_refused(self) -> None:
        for order in (0, 6):
            with pytest.raises(ValueError, match="1 to 5"):
                AdamsBashforth(order)


class TestTaylor:
    @pytest.mark.parametrize(("order", "weights"), [(0, (1,)), (1, (2, -1)), (2, (2.5, -2, 0.5))])
    def test_backward_differences_as_derivatives_at_unit_stride(self, order: int, weights: tuple[float, ...]) -> None:
        assert Taylor(order).weights(moment(20), past(20, [1] * 5, order + 1), 50) == pytest.approx(weights)

    @given(distances=gaps, order=st.integers(1, 4), slope=st.floats(-3, 3))
    def test_exact_on_lines(self, distances: list[int], order: int, slope: float) -> None:
        history = past(45, distances, order + 1)
        weights = Taylor(order).weights(moment(45), history, 50)
        predicted = [weight * slope * place.step for weight, place in zip(weights, history, strict=True)]
        assert sum(predicted) == pytest.approx(slope * 45, abs=1e-9 * (1 + sum(map(abs, predicted))))

    @given(distances=gaps, values=st.lists(st.floats(-1, 1), min_size=4, max_size=4))
    def test_the_recursion_of_the_paper(self, distances: list[int], values: list[float]) -> None:
        """The factors as a running job keeps them: every compute divides by its own distance to the one before."""
        history = past(45, distances, 4)
        factors: list[float] = []
        for i in reversed(range(4)):
            fresh = [values[i]]
            for j, before in enumerate(factors):
                fresh.append((fresh[j] - before) / (history[i].step - history[i + 1].step))
            factors = fresh
        distance = 45 - history[0].step
        expected = sum(factor * distance**j / math.factorial(j) for j, factor in enumerate(factors))
        weights = Taylor(3).weights(moment(45), history, 50)
        assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(expected, abs=1e-9)

    def test_a_negative_order_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            Taylor(-1)


class TestLinear:
    def test_the_weight_rises_over_the_run(self) -> None:
        history = past(0, [1, 2], 2)
        found = [Linear().weights(moment(step), history, 51) for step in (0, 25, 50)]
        assert found == [(1.0, -0.0), (1.5, -0.5), (2.0, -1.0)]

    def test_or_is_constant(self) -> None:
        assert Linear(0.3).weights(moment(7), past(7, [1, 2], 2), 50) == (1.3, -0.3)

    def test_a_run_of_one_step_is_no_special_case(self) -> None:
        assert Linear().weights(moment(0), past(0, [1, 1], 2), 1) == (1.0, -0.0)


class TestChannelAffine:
    def test_corrects_the_pairs_it_knows(self) -> None:
        predictor = ChannelAffine({(3, 5): CORRECTION})
        assert predictor.channels(moment(5), moment(3), 50) is CORRECTION
        assert predictor.channels(moment(6), moment(3), 50) is None
        assert isinstance(hash(predictor), int)

    @pytest.mark.parametrize("name", sorted(set(PREDICTORS_UNDER_TEST) - {"channel-affine"}))
    def test_others_correct_nothing(self, name: str) -> None:
        assert PREDICTORS_UNDER_TEST[name].channels(moment(5), moment(3), 50) is None


class TestCFGDelta:
    def test_low_frequencies_early_high_ones_late(self) -> None:
        bands = [CFGDelta().bands(moment(step), moment(step - 3), 50) for step in (24, 25)]
        assert bands == [(1.2, 1.0), (1.0, 1.2)]

    def test_the_released_code_compounds_per_skipped_step(self) -> None:
        predictor = CFGDelta(0.1, 0.1, compounding=True)
        factors = [predictor.bands(moment(10 + k), moment(10), 50)[0] for k in range(1, 5)]
        assert factors == pytest.approx([1.1, 1.21, 1.331, 1.4641])
        assert predictor.bands(moment(42), moment(40), 50) == pytest.approx((1.0, 1.21))
