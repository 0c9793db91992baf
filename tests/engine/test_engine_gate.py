import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import spec
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batch import join
from service.engine.gate import divergence, influence, passes, pool_prediction
from service.engine.job import Job


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


def test_a_prompt_with_much_to_say_may_change_more():
    value = divergence(picture(1), picture(2), influence=2.0)
    assert divergence(picture(1), picture(2), influence=4.0) == pytest.approx(value / 2)
    assert divergence(picture(), picture(), influence=0.0) == 0.0
    assert divergence(picture(1), picture(2), influence=0.0) == math.inf
    assert not passes(divergence(picture(1), picture(2), influence=math.nan), math.inf)


def test_the_influence_of_a_prompt_is_what_guidance_changes():
    guided, unguided = torch.randn(4, 16, 16), torch.randn(4, 16, 16)
    changed = torch.nn.functional.avg_pool2d(guided - unguided, 2)
    expected = (changed**2).mean(0).sqrt().mean()
    assert influence(guided, unguided) == pytest.approx(float(expected), rel=1e-2)
    assert influence(guided, guided) == 0.0


def test_without_guidance_a_prediction_is_what_it_would_have_been(pipeline):
    jobs = [Job.create(spec(str(scale), guidance_scale=scale), 0.0, pipeline) for scale in (4.0, 1.0, 2.0)]
    rows = join(jobs)
    guided = pipeline.predict(rows)
    plain = pipeline.unguided(rows)
    assert plain is not None
    alone = replace(rows, conditions=rows.negatives, guidance=torch.ones(3))
    torch.testing.assert_close(plain[[0, 2]], pipeline.predict(alone)[[0, 2]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain[1], guided[1])
    assert pipeline.unguided(alone) is None


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
