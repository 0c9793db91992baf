"""Runs that begin from a given picture: as diffusers' own image-to-image, with masks, resumed, in a batch."""

import hashlib
import time

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from engine_helpers import SIDE, alone, drive, finish, point, spec
from mix_helpers import BUILDERS

from service.engine.base import Progress
from service.engine.foreign import DISCRETE_FOREIGN
from service.engine.loop import StepLoop
from service.engine.reference import MOST_CANVASES, Canvas, Easel, Reference

SOLVERS = ("ddim", "euler", "dpmpp_2m", "unipc", "euler_ancestral", *DISCRETE_FOREIGN)
SWAPPED = {"euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
CAPTURE = (0.25, 0.5, 0.75)


def _picture(width: int = SIDE, height: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 7 % 256, columns * 5 % 256, (rows + columns) * 3 % 256], axis=2).astype(np.uint8)


def _reference(strength: float = 0.5, mask: np.ndarray | None = None, image: np.ndarray | None = None) -> Reference:
    image = _picture() if image is None else image
    digest = hashlib.sha256(image.tobytes() + (b"" if mask is None else mask.tobytes())).hexdigest()
    return Reference(image, strength, digest, mask)


def _right_half() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, SIDE // 2 :] = True
    return mask


def _diffusers(folder, kind, solver):
    pipe = kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    if solver in SWAPPED:
        pipe.scheduler = SWAPPED[solver].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("strength", "steps_run"), [(0.25, 2), (0.5, 4), (1.0, 8)])
@pytest.mark.parametrize("solver", ["ddim", "euler", "dpmpp_2m"])
def test_it_is_image_to_image_as_diffusers_does_it(tiny_model, pipeline, solver, strength, steps_run):
    item = spec(solver=solver, reference=_reference(strength))
    result = alone(pipeline, item)
    assert (result.skipped, result.begin, result.steps_run) == (8 - steps_run, 8 - steps_run, steps_run)
    # A latent given in place of a picture is not drawn from the encoder's distribution.
    drawn = _diffusers(tiny_model, StableDiffusionImg2ImgPipeline, solver)(
        item.prompt,
        image=pipeline.encode_picture(_picture())[None],
        strength=strength,
        num_inference_steps=item.steps,
        guidance_scale=item.guidance_scale,
        generator=torch.Generator().manual_seed(item.seed),
        output_type="latent",
    ).images[0]
    scale = max(1.0, float(drawn.abs().max()))
    difference = np.abs(result.final.latent.astype(np.float32) - drawn.numpy()).max()
    assert difference <= 2e-3 * scale


@pytest.mark.parametrize("family", BUILDERS)
def test_every_family_encodes_as_its_vae_does(families, family):
    pipeline = families(family)._pipeline
    latent = pipeline.encode_picture(_picture(SIDE + 16, SIDE))
    assert latent.shape == pipeline.initial_noise(0, SIDE + 16, SIDE).shape
    assert latent.dtype == torch.float32
    vae = pipeline._vae
    given = torch.tensor(_picture(SIDE + 16, SIDE)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        mean = vae.encode(given).latent_dist.mean
        expected = vae.decode(mean).sample
    again = pipeline.decode(latent[None])[0].astype(float)
    wanted = ((expected[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(again - wanted).max() <= 1


@pytest.mark.parametrize("family", BUILDERS)
def test_every_family_and_its_solvers_edit(families, family):
    pipeline = families(family)
    for solver in pipeline.info.solvers:
        few = alone(pipeline, spec(solver=solver, reference=_reference(0.25)))
        assert few.skipped == few.begin == 6, solver
        assert np.isfinite(few.final.latent).all(), solver


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_kept_is_kept_whatever_the_solver(pipeline, solver):
    mask = _right_half()
    result = alone(pipeline, spec(solver=solver, reference=_reference(0.75, mask)))
    assert np.array_equal(result.image[~mask], _picture()[~mask])
    assert not np.array_equal(result.image[mask], _picture()[mask])
    kept = pipeline.encode_picture(_picture())[:, :, :8].half().numpy().astype(np.float32)
    got = result.final.latent[:, :, :8].astype(np.float32)
    assert np.abs(got - kept).max() <= 5e-2 * max(1.0, np.abs(kept).max())


def test_a_mask_is_inpainting_as_diffusers_does_it(tiny_model, pipeline):
    mask = _right_half()
    item, latent = spec(reference=_reference(0.75, mask)), pipeline.encode_picture(_picture())[None]
    drawn = _diffusers(tiny_model, StableDiffusionInpaintPipeline, "ddim")(
        item.prompt,
        image=latent,
        masked_image_latents=latent,
        mask_image=torch.tensor(mask).float()[None, None],
        strength=0.75,
        height=SIDE,
        width=SIDE,
        num_inference_steps=item.steps,
        guidance_scale=item.guidance_scale,
        generator=torch.Generator().manual_seed(item.seed),
        output_type="latent",
    ).images[0]
    scale = max(1.0, float(drawn.abs().max()))
    assert np.abs(alone(pipeline, item).final.latent.astype(np.float32) - drawn.numpy()).max() <= 5e-3 * scale


def test_a_cell_with_one_pixel_to_draw_is_drawn(pipeline):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5, 30] = True
    canvas = Canvas.of(_reference(0.5, mask), pipeline)
    assert canvas.mask.sum() == 1
    assert canvas.mask[0, 2, 15] == 1


@pytest.mark.parametrize("solver", ["ddim", "euler_ancestral"])
def test_an_edit_resumed_from_its_own_state_is_the_same_picture(pipeline, solver):
    item = spec(solver=solver, reference=_reference(0.75), capture=CAPTURE)
    full = alone(pipeline, item)
    assert [state.skip for state in full.captured] == [0.5, 0.75]  # at .25 it begins: that state is the picture's own
    for state in full.captured:
        again = alone(
            pipeline, spec(solver=solver, reference=_reference(0.75), capture=CAPTURE, resume=(point(state),))
        )
        assert again.resumed == 0
        assert again.skipped == round(state.skip * 8) > again.begin == 2
        assert np.array_equal(again.image, full.image)


def test_a_state_before_its_beginning_is_passed_over(pipeline):
    early = alone(pipeline, spec(capture=CAPTURE)).captured[0]
    result = alone(pipeline, spec(reference=_reference(0.5), resume=(point(early),)))
    assert (result.resumed, result.skipped, result.wasted) == (None, 4, 0)


def test_a_refused_state_leads_back_to_the_picture(pipeline):
    item = spec(reference=_reference(0.75), capture=CAPTURE)
    full = alone(pipeline, item)
    refused = point(full.captured[0], max_divergence=-1.0)
    again = alone(pipeline, spec(reference=_reference(0.75), capture=CAPTURE, resume=(refused,)))
    assert (again.resumed, again.wasted, again.skipped) == (None, 1, 2)
    assert np.array_equal(again.image, full.image)


def test_edits_and_texts_share_a_batch(pipeline):
    jobs = [
        spec("text", isolated=True),
        spec("edit", reference=_reference(0.5), isolated=True, seed=1),
        spec("masked", reference=_reference(0.9, _right_half()), isolated=True, seed=2, solver="dpmpp_2m"),
    ]
    ends = drive(StepLoop(pipeline), *jobs)
    for job in jobs:
        assert np.array_equal(ends[job.job_id].image, alone(pipeline, job).image), job.job_id


def test_strength_says_how_many_steps_run():
    assert [_reference(strength).begin(8) for strength in (0.001, 0.3, 0.5, 0.9, 1.0)] == [7, 6, 4, 1, 0]
    assert _reference(0.001).begin(1) == 0


@pytest.fixture
def encoded(pipeline, monkeypatch):
    """Counts encodings, each of which takes a while."""
    calls, encode = [], pipeline.encode_picture

    def slowly(image):
        calls.append(image)
        time.sleep(0.05)
        return encode(image)

    monkeypatch.setattr(pipeline, "encode_picture", slowly)
    return calls


def test_a_picture_is_encoded_once_for_all_that_are_drawn_over_it(pipeline, encoded):
    single = alone(pipeline, spec(reference=_reference()))
    encoded.clear()
    loop = StepLoop(pipeline)
    ends = drive(loop, *(spec(f"{n}", seed=7 + n, reference=_reference()) for n in range(4)))
    later = drive(loop, spec("later", reference=_reference(0.75)))
    assert len(encoded) == 1
    assert np.array_equal(ends["0"].image, single.image)
    assert [end.encode_seconds > 0 for end in (*ends.values(), *later.values())] == [True, False, False, False, False]


def test_tenants_and_other_masks_share_no_encoding(pipeline, encoded):
    loop = StepLoop(pipeline)
    drive(loop, spec("a", tenant="one", reference=_reference()), spec("b", tenant="two", reference=_reference()))
    assert len(encoded) == 2
    drive(loop, spec("c", tenant="one", reference=_reference(mask=_right_half())))
    assert len(encoded) == 3


def test_few_encodings_are_kept(pipeline, encoded):
    easel, noise = Easel(pipeline), pipeline.initial_noise(0, SIDE, SIDE)
    pictures = [spec(reference=_reference(image=_picture() + np.uint8(n))) for n in range(MOST_CANVASES + 1)]
    for item in pictures:
        easel.canvas(item, noise)
    easel.canvas(pictures[-1], noise)
    assert len(encoded) == len(pictures)
    easel.canvas(pictures[0], noise)
    assert len(encoded) == len(pictures) + 1


def test_encoding_is_device_time_of_the_job_and_no_wait(pipeline, encoded):
    loop = StepLoop(pipeline)
    settled = []
    loop._waiting.settle = lambda item, seconds: settled.append(seconds)
    started = time.monotonic()
    loop.submit(spec(reference=_reference()), started)
    first = next(event for event in loop.tick() if isinstance(event, Progress))
    result = finish(loop)["a"]
    assert first.encode_seconds == result.encode_seconds >= 0.05
    assert result.device_seconds == result.encode_seconds + result.denoise_seconds + result.decode_seconds
    assert settled == [result.device_seconds]
    entered = started + result.queue_seconds + result.encode_seconds
    assert entered <= time.monotonic()
    plain = alone(pipeline, spec())
    assert plain.encode_seconds == 0


def test_its_group_pays_for_encoding(pipeline, encoded):
    loop, edit, text = StepLoop(pipeline), spec("edit", reference=_reference()), spec("text", width=SIDE * 2)
    loop.submit(edit, 0.0)
    loop.submit(text, 0.0)
    loop._admit()
    assert loop._fairness._charged[edit.group] >= 0.05
    # Of two that came together the one goes first that had nothing of the device yet.
    assert loop._fairness.pick([edit.group, text.group]) == text.group
