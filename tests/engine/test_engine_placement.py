"""How a model is laid out on a device; what needs CUDA is not tested here."""

import shutil

import numpy as np
import pytest
import torch
from engine_helpers import alone, drive, spec

from service.engine.families import HALF_PRECISION, NAMES
from service.engine.features.network import filled
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from service.engine.placement import Placement, bucket

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def test_buckets_are_powers_of_two():
    assert [bucket(count) for count in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
    place = Placement(torch.device("cpu"), torch.float32)
    assert place.rows(3) == 3
    assert Placement(torch.device("cpu"), torch.float32, compiled=True).rows(3) == 4


def test_every_family_has_its_16_bit_type():
    assert set(HALF_PRECISION) == set(NAMES)


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_model_draws_the_same_pictures(tiny_model, pipeline):
    """Three jobs, two of them guided: five rows, filled up to eight."""
    compiled = load_pipeline(str(tiny_model), "cpu", "float32", compiled=True)
    seen = []
    denoiser = compiled._denoiser
    denoiser.register_forward_pre_hook(lambda _, __, given: seen.append(len(given["sample"])), with_kwargs=True)
    specs = [spec("a", steps=2), spec("b", steps=2, seed=9), spec("c", steps=2, guidance_scale=1.0)]
    ends = drive(StepLoop(compiled), *specs)
    assert seen == [8, 8]
    for item in specs:
        image = alone(pipeline, item).image
        assert np.abs(ends[item.job_id].image.astype(int) - image.astype(int)).max() <= 1


def test_rows_are_filled_up_with_the_first():
    rows = torch.arange(6.0).reshape(3, 2)
    more = filled(rows, 4)
    assert torch.equal(more[:3], rows)
    assert torch.equal(more[3], rows[0])
    assert filled(rows, 3) is rows


def test_large_pictures_are_decoded_in_tiles(tiny_model, pipeline):
    tiled = load_pipeline(str(tiny_model), "cpu", "float32", tiled_side=32)
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    small, large = latents[..., :16, :16], latents
    np.testing.assert_array_equal(tiled.decode(small), pipeline.decode(small))
    calls = []
    decoder = tiled._vae.decoder
    decoder.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[-1]))
    assert tiled.decode(large).shape == (1, 64, 64, 3)
    assert len(calls) > 1
    assert max(calls) <= 16
    calls.clear()
    tiled.decode(small)
    assert calls == [16]
