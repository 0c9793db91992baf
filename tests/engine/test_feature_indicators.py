"""What probing policies look at in a denoiser taken apart."""

import pytest
import torch
from taken_apart import DENOISERS, ROWS, TRANSFORMERS, cut, run, whole

from policies.features.base import BlockStack, UNetSkip
from service.engine.features.backbone import NOISE_SHARE, UnsupportedSite, relative_change, walk
from service.engine.features.backbones import backbone_of
from service.engine.features.wiener import filtered

SHARE = torch.tensor([0.9, 0.1, 0.4])


@pytest.fixture(autouse=True, scope="module")
def _inference():
    with torch.inference_mode():
        yield


def look(made, name, kind, site, **changes):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    inputs = {**inputs, NOISE_SHARE: SHARE, **changes}
    first = backbone.enter(inputs)
    now, *_ = cut(backbone, inputs, site)
    return backbone.indicator(kind, first, now), first, now


@pytest.mark.parametrize("name", DENOISERS)
def test_rows_come_first_and_are_each_ones_own(made, name):
    denoiser, _ = made(name)
    site = UNetSkip(0) if name not in TRANSFORMERS else BlockStack(1, 0)
    kinds = ["entry", "increment", "timestep", "filtered", *(["modulated-input"] if name in TRANSFORMERS else [])]
    for kind in kinds:
        seen, first, now = look(made, name, kind, site)
        assert len(seen) == ROWS
        assert seen.isfinite().all()
        rows = torch.tensor([2, 0])
        some = backbone_of(denoiser).indicator(kind, first.take(rows), now.take(rows))
        assert relative_change(some, seen[rows]).max() < (1e-2 if seen.dtype != torch.float32 else 1e-5)


@pytest.mark.parametrize("name", ["pixart", "pixart, sized", "sd3", "sd3.5", "flux", "flux, unguided"])
def test_the_modulated_input_is_what_the_first_attention_reads(made, name):
    denoiser, inputs = made(name)
    read = []
    block = denoiser.transformer_blocks[0]
    attention = block.attn1 if name.startswith("pixart") else block.attn
    with attention.register_forward_pre_hook(
        lambda _, given, named: read.append(given[0] if given else named["hidden_states"]), with_kwargs=True
    ):
        whole(denoiser, inputs)
    seen, *_ = look(made, name, "modulated-input", BlockStack())
    assert torch.equal(seen, read[0])


@pytest.mark.parametrize("name", DENOISERS)
def test_time_alone_changes_what_depends_on_it(made, name):
    _, inputs = made(name)
    site = UNetSkip(0) if name not in TRANSFORMERS else BlockStack()
    other = {"timestep": inputs["timestep"].flip(0)}
    for kind in ("timestep", *(["modulated-input"] if name in TRANSFORMERS else [])):
        seen = [look(made, name, kind, site, **change)[0] for change in ({}, other)]
        assert ((seen[0] - seen[1]).flatten(1).abs().max(1).values > 0).tolist() == [True, False, True]


def test_entry_and_increment_are_those_of_the_span(made):
    denoiser, inputs = made("flux")
    backbone = backbone_of(denoiser)
    entry, first, _ = look(made, "flux", "entry", BlockStack(2, 1))
    increment, *_ = look(made, "flux", "increment", BlockStack(2, 1))
    stream = backbone.enter(inputs)
    run(backbone, stream, 0, 2)
    assert torch.equal(entry, stream.hidden[0])
    assert torch.equal(increment, stream.hidden[0] - first.hidden[0])


def test_a_unet_has_no_increment_across_sizes(made):
    with pytest.raises(UnsupportedSite, match="size"):
        look(made, "unet", "increment", UNetSkip(3))
    with pytest.raises(UnsupportedSite, match="modulate"):
        look(made, "unet", "modulated-input", UNetSkip(0))


@pytest.mark.parametrize("name", ["unet", "pixart", "sd3", "flux"])
def test_the_filter_needs_the_noise_share_and_nothing_else_does(made, name):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    stream = backbone.enter(inputs)
    with pytest.raises(UnsupportedSite, match="noise_share"):
        backbone.indicator("filtered", stream, stream)
    assert torch.equal(walk(backbone, {**inputs, NOISE_SHARE: SHARE}), whole(denoiser, inputs))


@pytest.mark.parametrize("name", ["pixart, sized", "sd3.5", "flux"])
def test_tokens_are_filtered_in_their_places(made, name):
    seen, first, _ = look(made, name, "filtered", BlockStack())
    height, width = (5, 8) if name == "flux" else (8, 5)
    tokens = first.hidden[0]
    assert seen.shape == (ROWS, tokens.shape[2], height, width)
    laid = torch.stack([tokens[:, place] for place in range(height * width)], -1).view(seen.shape)
    torch.testing.assert_close(seen, filtered(laid, SHARE), atol=1e-6, rtol=0)
