"""What calibration computes: known answers, and the best where the best is claimed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.features.fits import (
    ChannelMoments,
    LagMoments,
    channel_fit,
    fit_polynomial,
    greedy_mask,
    magnitude_ratios,
    optimal_groups,
    skip_errors,
    step_distances,
)


def flags(text: str) -> tuple[bool, ...]:
    return tuple(letter == "1" for letter in text)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_polynomial_is_found_again(degree: int) -> None:
    x = np.random.default_rng(degree).uniform(0.01, 0.2, 40)
    wanted = np.array([498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861])[-degree - 1 :]
    found, r_squared = fit_polynomial(x, np.polyval(wanted, x), degree)
    assert np.allclose(found, wanted, rtol=1e-6)
    assert r_squared == pytest.approx(1.0)


def test_a_fit_to_noise_explains_little() -> None:
    rng = np.random.default_rng(0)
    _, r_squared = fit_polynomial(rng.uniform(0, 1, 500), rng.normal(size=500))
    assert 0.0 <= r_squared < 0.1


def test_points_that_do_not_vary() -> None:
    coefficients, r_squared = fit_polynomial(np.zeros(6), np.full(6, 3.0))
    assert np.polyval(coefficients, 0.0) == pytest.approx(3.0)
    assert r_squared == 1.0


@pytest.mark.parametrize(("inputs", "outputs"), [([1, 2], [1, 2]), ([1] * 6, [1] * 5), ([np.nan] * 6, [1] * 6)])
def test_points_that_cannot_be_fitted(inputs: list[float], outputs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"more than 4 pairs|finite"):
        fit_polynomial(np.array(inputs), np.array(outputs))


def test_magnitude_ratios_are_means_of_ratios() -> None:
    norms = np.array([[[1.0, 2.0], [2.0, 2.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]])
    assert magnitude_ratios(norms) == (1.0, 1.25, 1.25)
    assert magnitude_ratios(norms[:, :, :1]) == (1.0, 1.5, 1.25)
    assert magnitude_ratios(norms[:, :, 0]) == (1.0, 1.5, 1.25)


@pytest.mark.parametrize("norms", [np.zeros((1, 3, 2)), np.full((1, 3), np.inf), np.ones(3), -np.ones((1, 3))])
def test_norms_that_are_none(norms: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"norms must be|finite"):
        magnitude_ratios(norms)


def test_skip_errors_are_relative_to_the_step_that_is_skipped() -> None:
    errors = skip_errors(np.array([[[1.0, 1.0]], [[2.0, 2.0]], [[4.0, 4.0]]]), lags=3)
    assert errors.tolist() == [[0.5, 0.5, 0.0], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_feature_that_vanishes_costs_much_and_not_infinitely_much() -> None:
    errors = skip_errors(np.array([[1.0], [0.0], [0.0]]))
    assert errors[0, 0] > 1e6
    assert errors[0, 1] == 0.0
    assert np.isfinite(errors).all()


ERRORS = np.array(
    [
        [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0],
        [0.2, 0.9, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0],
        [0.3, 0.9, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0],
    ]
)


@pytest.mark.parametrize(
    ("alpha", "mask"), [(0.0, "11111111"), (0.1, "10101011"), (0.25, "10010011"), (0.35, "10001001"), (1, "10001001")]
)
def test_the_greedy_mask(alpha: float, mask: str) -> None:
    assert greedy_mask(ERRORS, alpha) == flags(mask)


def test_only_the_far_end_of_a_gap_is_asked_about() -> None:
    assert greedy_mask(np.array([[0.9] * 5, [0.1] * 5]), 0.5) == flags("10011")


@given(st.integers(1, 12), st.integers(1, 4), st.floats(0, 1), st.integers(0, 9))
def test_greedy_masks_keep_to_alpha_and_compute_both_ends(steps: int, lags: int, alpha: float, seed: int) -> None:
    errors = np.random.default_rng(seed).uniform(0, 1, (lags, steps))
    mask = greedy_mask(errors, alpha)
    assert mask[0]
    assert mask[-1]
    for left, right in itertools.pairwise(i for i, computed in enumerate(mask) if computed):
        assert right - left == 1 or errors[right - left - 2, left] <= alpha


def test_step_distances_are_symmetric_means() -> None:
    distances = step_distances(np.array([[0.0, 0.0], [1.0, 3.0], [4.0, 4.0]], dtype=np.float16))
    assert distances.tolist() == [[0, 2, 4], [2, 0, 2], [4, 2, 0]]


def cost(distances: np.ndarray, mask: tuple[bool, ...], first_step: int) -> float:
    leader, total = first_step, 0.0
    for step in range(first_step, len(mask)):
        leader = step if mask[step] else leader
        total += distances[leader, step]
    return total


def by_force(distances: np.ndarray, groups: int, first_step: int, longest: int, shortest: int) -> float | None:
    steps = len(distances)
    totals = []
    for cuts in itertools.combinations(range(first_step + 1, steps), groups - 1):
        starts = (first_step, *cuts, steps)
        if all(shortest <= right - left <= longest for left, right in itertools.pairwise(starts)):
            totals.append(cost(distances, tuple(step in starts for step in range(steps)), first_step))
    return min(totals, default=None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_groups_are_the_best_there_are(data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, 9))
    first_step = data.draw(st.integers(0, steps - 1))
    groups = data.draw(st.integers(1, steps - first_step))
    longest, shortest = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    distances = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(0, 1, (steps, steps))
    best = by_force(distances, groups, first_step, longest, shortest)
    if best is None:
        with pytest.raises(ValueError, match="cannot be cut"):
            optimal_groups(distances, groups, first_step, longest, shortest)
        return
    mask = optimal_groups(distances, groups, first_step, longest, shortest)
    assert cost(distances, mask, first_step) == pytest.approx(best)
    assert (sum(mask), mask[first_step], any(mask[:first_step])) == (groups, True, False)


def test_groups_follow_the_features() -> None:
    distances = step_distances(np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0]]))
    assert optimal_groups(distances, 3) == flags("100101")
    assert optimal_groups(distances, 2, first_step=2) == flags("001100")
    assert optimal_groups(distances, 3, longest=2) == flags("101010")


@pytest.mark.parametrize("groups", [0, 5])
def test_groups_that_cannot_be(groups: int) -> None:
    with pytest.raises(ValueError, match="4 steps cannot be cut"):
        optimal_groups(np.zeros((6, 6)), groups, first_step=2)


def test_a_channel_fit_is_exact_on_affine_features() -> None:
    rng = np.random.default_rng(0)
    anchor, scale, offset = rng.normal(1000.0, 1.0, (50, 3)), np.array([2.0, -1.0, 0.0]), np.array([1.0, 0.0, 7.0])
    found = channel_fit(anchor, anchor * scale + offset)
    assert np.allclose(found[0], scale, atol=1e-9)
    assert np.allclose(found[1], offset, atol=1e-6)


def test_a_channel_that_never_varies_is_moved() -> None:
    for constant in (0.0, 0.1, 1e6):
        scale, offset = channel_fit(np.full((7, 1), constant), np.full((7, 1), constant + 2.0))
        assert (scale[0], offset[0]) == (1.0, pytest.approx(2.0))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_moments_may_be_added_in_any_parts(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(5, 1, (2, size, 3)), rng.normal(size=(2, size, 3))) for size in (*sizes, 4)]
    moments = ChannelMoments()
    for anchor, target in parts:
        moments.add(anchor, target)
    joined = [np.concatenate([pair[i].reshape(-1, 3) for pair in parts]) for i in (0, 1)]
    assert np.allclose(moments.fit(), channel_fit(*joined))
    for channel in range(3):
        wanted = np.polyfit(joined[0][:, channel], joined[1][:, channel], 1)
        assert np.allclose([part[channel] for part in moments.fit()], wanted)


def test_features_that_do_not_fit() -> None:
    moments = ChannelMoments()
    with pytest.raises(ValueError, match="no features"):
        moments.fit()
    moments.add(np.zeros((2, 3)), np.zeros((2, 3)))
    for anchor, target in [(np.zeros((2, 4)), np.zeros((2, 4))), (np.zeros((2, 3)), np.zeros((1, 3)))]:
        with pytest.raises(ValueError, match="do not fit"):
            moments.add(anchor, target)
    with pytest.raises(ValueError, match="finite"):
        moments.add(np.full((2, 3), np.nan), np.zeros((2, 3)))


def test_lag_moments_are_channel_moments_of_every_pair_of_steps() -> None:
    steps, lags, channels = 5, 3, 2
    rng = np.random.default_rng(3)
    runs = [rng.normal(1e3, 2.0, (steps, size, channels)) for size in (4, 9, 4)]
    for run in runs:
        run[:, :, 1] = np.arange(steps)[:, None]  # a channel that never varies within a step
    moments = LagMoments(steps, lags)
    for run in runs:
        mean = run.mean(axis=1)
        centred = run - mean[:, None]
        covariance = np.zeros((steps, lags, channels))
        for lag in range(1, lags + 1):
            covariance[:-lag, lag - 1] = (centred[lag:] * centred[:-lag]).sum(axis=1)
        moments.add(run.shape[1], mean, (centred**2).sum(axis=1), covariance)
    scale, offset = moments.fit()
    coarse_scale, coarse_offset = moments.fit(np.float32)
    assert (coarse_scale.dtype, coarse_offset.dtype) == (np.float32, np.float32)
    for anchor in range(steps):
        for lag in range(1, lags + 1):
            found = scale[anchor, lag - 1], offset[anchor, lag - 1]
            if anchor + lag >= steps:
                assert np.array_equal(found, [[1, 1], [0, 0]])
                continue
            pair = ChannelMoments()
            for run in runs:
                pair.add(run[anchor], run[anchor + lag])
            assert np.allclose(found, pair.fit())
            # The rounded scale's error, which a large mean would blow up, is in the offset.
            there = coarse_scale[anchor, lag - 1].astype(float) * 1e3 + coarse_offset[anchor, lag - 1]
            assert np.allclose(there, found[0] * 1e3 + found[1], atol=1e-3)
    assert 0.0 <= moments.explained() <= 1.0
