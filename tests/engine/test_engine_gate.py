import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.gate import divergence, passes, pool_prediction


def picture(seed=0, shape=(4, 8, 8)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_pooling_means_equal_cells():
    denoised = torch.randn(3, 4, 16, 16)
    pooled = pool_prediction(denoised)
    assert pooled.shape == (3, 4, 8, 8)
    assert pooled.dtype == np.float16
    np.testing.assert_allclose(pooled[1, 2, 0, 3], denoised[1, 2, 0:2, 6:8].mean(), atol=1e-3)
    assert pool_prediction(torch.randn(4, 4, 6)).shape == (4, 4, 6)
    assert pool_prediction(torch.randn(4, 64, 96)).shape == (4, 8, 8)


def test_the_same_picture_does_not_diverge_and_unrelated_ones_do():
    assert divergence(picture(), picture()) == 0.0
    assert 1.2 < divergence(picture(1), picture(2)) < 2.5


def test_every_cell_counts_by_how_much_it_changes():
    once, twice, stronger = picture(), picture(), picture()
    once[:, 2:5, 2:5] += 3.0
    twice[:, 2:5, 2:5] += 3.0
    twice[:, 5:8, 5:8] += 3.0
    stronger[:, 2:5, 2:5] += 6.0
    one = divergence(once, picture())
    assert one > 0.2
    assert divergence(twice, picture()) == pytest.approx(2 * one, rel=1e-5)
    assert divergence(stronger, picture()) == pytest.approx(2 * one, rel=1e-5)


@given(st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_scale_and_offset_do_not_matter(scale, offset):
    expected = divergence(picture(1), picture(2))
    assert divergence(picture(1) * scale + offset, picture(2) * scale + offset) == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_compared_is_refused():
    broken = picture()
    broken[0, 0, 0] = np.nan
    endless = picture()
    endless[0, 0, 0] = np.inf
    for new, source in ((broken, picture()), (picture(), endless), (picture(shape=(4, 4, 4)), picture())):
        assert not passes(divergence(new, source), math.inf)
    flat = np.ones((4, 8, 8), np.float32)
    assert divergence(flat, flat) == 0.0
    assert divergence(picture(), flat) == math.inf


def test_the_bound_itself_passes():
    assert passes(0.25, 0.25)
    assert not passes(0.2500001, 0.25)
