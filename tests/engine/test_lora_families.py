"""Pictures with LoRAs, family by family, against diffusers' own pipelines with the same files."""

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from family_helpers import assert_joint_equals_alone, reference
from flow_helpers import draw, final_latent
from lora_helpers import job, lora, shelf, write_lora
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3
from tiny_sdxl import build_tiny_sdxl

from benchmarks.tiny_model import build_tiny_model
from service.engine.loading import load_pipeline

FAMILIES = {
    "sd": (StableDiffusionPipeline, build_tiny_model, {"unet": 4, "text_encoder": 2}),
    "sdxl": (StableDiffusionXLPipeline, build_tiny_sdxl, {"unet": 4, "text_encoder": 2, "text_encoder_2": 3}),
    "sd3": (StableDiffusion3Pipeline, build_tiny_sd3, {"transformer": 4, "text_encoder": 2, "text_encoder_2": 3}),
    "flux": (FluxPipeline, build_tiny_flux, {"transformer": 4, "text_encoder": 2}),
}


class Family:
    """A tiny model, ours and diffusers' own, and two LoRAs for it: one for every part, one for the denoiser alone."""

    def __init__(self, name, folder):
        kind, build, ranks = FAMILIES[name]
        self.model, shelved = build(folder / "model"), folder / "loras"
        shelved.mkdir()
        denoiser = next(iter(ranks))
        self.whole = write_lora(kind, self.model, shelved / "whole.safetensors", seed=1, **ranks)
        self.plain = write_lora(
            kind, self.model, shelved / "plain.safetensors", seed=2, described=False, **{denoiser: 2}
        )
        self.ours = load_pipeline(str(self.model), "cpu", "float32", shelf(shelved))
        self.theirs = reference(kind, self.model)
        self.solver = self.ours.info.solvers[0]

    def job(self, *loras, **changes):
        return job(*loras, **{"solver": self.solver, "steps": 4, "guidance_scale": 3.0, **changes})

    def expect(self, item, *files):
        """What diffusers' pipeline draws with these files at the scales of the job."""
        scales = {used.name: used.scale for used in item.loras}
        for file in files:
            self.theirs.load_lora_weights(str(file), adapter_name=file.stem)
        names = sorted(file.stem for file in files)
        self.theirs.set_adapters(names, [scales[name] for name in names])
        try:
            return draw(self.theirs, item, "latent")
        finally:
            self.theirs.unload_lora_weights()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def assert_close(latent, expected):
    if expected.ndim == 2:  # FLUX hands out tokens
        from service.engine.families.flux import _unpack

        expected = _unpack(expected[None], 8, 8)[0]
    torch.testing.assert_close(latent, expected, atol=2e-5 * max(1.0, float(expected.abs().max())), rtol=0)


def test_one_lora_equals_diffusers(family):
    assert family.ours.info.loras
    bare = final_latent(family.ours, family.job())
    for file, scale in ((family.whole, 1.0), (family.plain, 1.0), (family.whole, -0.5)):
        item = family.job(lora(file, scale))
        latent = final_latent(family.ours, item)
        assert (latent - bare).abs().max() > 1e-3 * bare.abs().max()
        assert_close(latent, family.expect(item, file))
    assert torch.equal(final_latent(family.ours, family.job()), bare)


def test_two_loras_equal_diffusers(family):
    item = family.job(lora(family.whole, 0.5), lora(family.plain, 1.5))
    assert_close(final_latent(family.ours, item), family.expect(item, family.plain, family.whole))


def test_the_text_encoders_part_counts(family):
    prompt = ("a red cube", 32, 32)
    bare = family.ours.encode(*prompt)
    dressed = family.ours.encode(*prompt, loras=(lora(family.whole),))
    undressed = family.ours.encode(*prompt, loras=(lora(family.plain),))
    # FLUX's CLIP only gives the pooled states.
    assert max((dressed[name] - bare[name]).abs().max() for name in bare) > 1e-3
    assert all(torch.equal(undressed[name], bare[name]) for name in bare)
    assert family.ours.encode(*prompt)["states"] is bare["states"]


def test_a_mixed_batch_equals_each_job_alone(family):
    specs = (
        family.job(name="a"),
        family.job(lora(family.whole), name="b", prompt="b", seed=8),
        family.job(lora(family.whole), name="c", steps=6, guidance_scale=1.0),
        family.job(lora(family.whole, 0.5), lora(family.plain), name="d", negative_prompt="blue"),
    )
    assert_joint_equals_alone(family.ours, specs)


def test_scale_0_equals_none(family):
    none = final_latent(family.ours, family.job())
    assert torch.equal(final_latent(family.ours, family.job(lora(family.whole, 0.0))), none)


def test_pixart_takes_none(tmp_path):
    pipeline = load_pipeline(str(build_tiny_pixart(tmp_path)), "cpu", "float32", shelf(tmp_path))
    assert not pipeline.info.loras
