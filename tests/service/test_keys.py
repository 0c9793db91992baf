from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_samples import CAPTURE, INFO, request

from service.engine.reference import Reference
from service.keys import exact_key, guidance_band, inexact_key, signature_of
from service.types import GenerationRequest

scales = st.floats(0.0, 30.0)


@given(scale=scales, factor=st.floats(1.3, 10.0))
def test_far_scales_never_share_a_band(scale: float, factor: float) -> None:
    if scale >= 0.1:
        assert guidance_band(scale) != guidance_band(scale * factor)


@given(band=st.integers(-5, 18), nudge=st.floats(0.92, 1.08))
def test_scales_near_a_bands_centre_share_it(band: int, nudge: float) -> None:
    centre = 1.21**band
    assert guidance_band(centre) == guidance_band(centre * nudge)


def test_no_guidance_has_a_band_of_its_own() -> None:
    assert guidance_band(0.0) == guidance_band(0.05) == "none"
    assert guidance_band(1.0) == "0"


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"width": 64},
        {"height": 64},
        {"guidance_scale": 7.5},
        {"negative_prompt": "blurry"},
    ],
)
def test_what_separates_partitions(change: dict[str, object]) -> None:
    changed = replace(request(), **change)
    assert signature_of(request(), INFO, "e").digest != signature_of(changed, INFO, "e").digest


@pytest.mark.parametrize("change", [{"seed": 8}, {"steps": 9}, {"prompt": "b"}, {"scheduler": "dpmpp_2m"}])
def test_what_may_share_a_partition(change: dict[str, object]) -> None:
    changed = replace(request(), **change)
    assert signature_of(request(), INFO, "e").digest == signature_of(changed, INFO, "e").digest


def test_other_weights_schedules_and_embedders_are_other_partitions() -> None:
    here = signature_of(request(), INFO, "e").digest
    for change in ({"weights_digest": "v"}, {"schedule": "t"}, {"prediction_type": "epsilon"}, {"dtype": "float16"}):
        assert signature_of(request(), replace(INFO, **change), "e").digest != here
    quantised = replace(INFO, dtype="float32+int8")
    assert signature_of(request(), quantised, "e").digest != here
    assert exact_key(request(), quantised, CAPTURE) != exact_key(request(), INFO, CAPTURE)
    assert signature_of(request(), INFO, "f").digest != here


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"prompt": "a red cube "},
        {"negative_prompt": "blurry"},
        {"seed": 8},
        {"steps": 9},
        {"guidance_scale": 2.0000001},
        {"scheduler": "dpmpp_2m"},
        {"width": 64},
        {"height": 64},
    ],
)
def test_every_difference_is_another_picture(change: dict[str, object]) -> None:
    assert exact_key(request(), INFO, CAPTURE) != exact_key(replace(request(), **change), INFO, CAPTURE)


def test_other_capture_shares_are_another_picture() -> None:
    assert exact_key(request(), INFO, CAPTURE) != exact_key(request(), INFO, (0.25,))


def test_a_long_prompts_last_word_counts() -> None:
    head = "word " * 600
    assert exact_key(request(head + "cat"), INFO, CAPTURE) != exact_key(request(head + "dog"), INFO, CAPTURE)


def test_fields_cannot_run_into_each_other() -> None:
    left = request("a", negative_prompt='b", "c')
    right = request('a", "b', negative_prompt="c")
    assert exact_key(left, INFO, CAPTURE) != exact_key(right, INFO, CAPTURE)


def test_a_resumed_runs_key_answers_nobody() -> None:
    key = exact_key(request(), INFO, CAPTURE)
    assert inexact_key(key, "r1") != key
    assert inexact_key(key, "r1") != inexact_key(key, "r2")


def _over(strength: float = 0.5, digest: str = "d") -> GenerationRequest:
    picture = np.zeros((32, 32, 3), np.uint8)
    return replace(request(), reference=Reference(picture, strength, digest))


def test_pictures_drawn_over_and_strengths_never_meet_in_a_partition() -> None:
    kinds = (request(), _over(), _over(0.51), _over(digest="e"))
    assert len({signature_of(kind, INFO, "e").digest for kind in kinds}) == len(kinds)


def test_an_edit_is_the_same_where_its_picture_enters_at_the_same_step() -> None:
    kinds = (request(), _over(), _over(0.75), _over(digest="e"))
    assert len({exact_key(kind, INFO, CAPTURE) for kind in kinds}) == len(kinds)
    assert exact_key(_over(0.51), INFO, CAPTURE) == exact_key(_over(), INFO, CAPTURE)


def test_another_safety_checker_is_another_partition_and_the_same_picture() -> None:
    found = {signature_of(request(), INFO, "e", version).digest for version in ("", "v1", "v2")}
    assert len(found) == 3
