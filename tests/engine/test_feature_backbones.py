"""Denoisers taken apart: layer by layer they are what they are as a whole, and any rows may leave any span out."""

import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from engine_helpers import build_tiny_model
from peft import LoraConfig
from taken_apart import ROWS, asked_by, cut, feature_of, flux, pixart, run, run_partly, sd3, sdxl, sites, unet
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3
from tiny_sdxl import build_tiny_sdxl

from policies.features.base import BlockStack, UNetSkip
from policies.features.choice import Traits
from service.engine.features.backbone import NOISE_SHARE, Stream, UnsupportedSite, relative_change, walk
from service.engine.features.backbones import backbone_of, traits_of
from service.engine.features.wiener import filtered
from service.engine.loading import load_pipeline

DENOISERS = {
    "unet": unet,
    "unet, one layer a block": partial(unet, layers=1, levels=2),
    "unet, layers differ": partial(unet, layers=(1, 2, 1)),
    "unet, no middle": partial(unet, middle=False),
    "unet, odd": partial(unet, side=(13, 18)),
    "unet, odd below": partial(unet, side=(16, 14)),
    "unet, centred": partial(unet, levels=2, center_input_sample=True),
    "sdxl": sdxl,
    "sdxl, odd": partial(sdxl, side=(15, 11)),
    "pixart": pixart,
    "pixart, sized": partial(pixart, sized=True, side=(16, 10)),
    "pixart, plain captions": partial(pixart, layers=2, caption_channels=None, cross_attention_dim=10),
    "sd3": sd3,
    "sd3.5": partial(sd3, dual=(0, 1), side=(16, 10)),
    "sd3.5, all dual": partial(sd3, layers=2, dual=(0, 1)),
    "sd3, bfloat16": partial(sd3, dual=(0,), dtype=torch.bfloat16),
    "flux": flux,
    "flux, one of each": partial(flux, 1, 1),
    "flux, unguided": partial(flux, 1, 3, guided=False),
    "flux, bfloat16": partial(flux, dtype=torch.bfloat16),
    "flux, float16": partial(flux, dtype=torch.float16),
}
FAMILIES = {
    "stable-diffusion": build_tiny_model,
    "stable-diffusion-xl": build_tiny_sdxl,
    "pixart-sigma": build_tiny_pixart,
    "pixart-sigma, sized": partial(build_tiny_pixart, use_additional_conditions=True),
    "stable-diffusion-3": build_tiny_sd3,
    "stable-diffusion-3.5": partial(build_tiny_sd3, newer=True),
    "flux dev": build_tiny_flux,
    "flux schnell": partial(build_tiny_flux, guided=False),
}
TRANSFORMERS = [name for name in DENOISERS if not name.startswith(("unet", "sdxl"))]


@pytest.fixture(autouse=True, scope="module")
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def made():
    """Makes and keeps a denoiser and its inputs, by name."""
    kept = {}

    def make(name):
        if name not in kept:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                denoiser, inputs = DENOISERS[name]()
                kept[name] = (denoiser.eval(), inputs)
        return kept[name]

    return make


def whole(denoiser, inputs):
    return denoiser(**inputs, return_dict=False)[0]


def assert_any_rows_may_skip(backbone, inputs, expected, tolerance):
    for site in sites(backbone):
        remembered = feature_of(backbone, inputs, site)
        for rows in ([], [1], [0, 2], [0, 1, 2]):
            # What the rows that walk have remembered must not matter.
            own = remembered.clone()
            own[rows] = torch.nan
            output = run_partly(backbone, inputs, site, own, torch.tensor(rows, dtype=torch.long))
            error = float((output - expected).abs().max())
            assert error <= tolerance * max(1.0, float(expected.abs().max())), (site, rows, error)


@pytest.mark.parametrize("name", DENOISERS)
def test_layer_by_layer_it_is_the_same_to_the_bit(made, name):
    denoiser, inputs = made(name)
    expected = whole(denoiser, inputs)
    assert torch.equal(walk(backbone_of(denoiser), inputs), expected)
    assert torch.equal(whole(denoiser, inputs), expected)


@pytest.mark.parametrize("name", DENOISERS)
def test_any_rows_may_leave_any_span_out(made, name):
    denoiser, inputs = made(name)
    coarse = whole(denoiser, inputs).dtype != torch.float32
    assert_any_rows_may_skip(backbone_of(denoiser), inputs, whole(denoiser, inputs), 3e-2 if coarse else 1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_own_inputs(tmp_path, name):
    pipeline = load_pipeline(str(FAMILIES[name](tmp_path)), "cpu", "float32")
    inputs = asked_by(pipeline)
    inputs.pop("return_dict")
    backbone, expected = backbone_of(pipeline._denoiser), whole(pipeline._denoiser, inputs)
    assert len(expected) == (3 if "flux" in name else 5)
    assert len(set(inputs["timestep"].tolist())) == 3
    assert torch.equal(walk(backbone, inputs), expected)
    assert_any_rows_may_skip(backbone, inputs, expected, 1e-5)


@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd3.5", "flux"])
def test_a_lora_counts_in_the_parts_too(name):
    denoiser, inputs = DENOISERS[name]()
    backbone, bare = backbone_of(denoiser.eval()), whole(denoiser, inputs)
    targets = ["to_q", "to_out.0", "proj_in", "net.2", "norm1.linear", "norm.linear", "proj_out", "conv1"]
    denoiser.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    dressed = whole(denoiser.eval(), inputs)
    assert not torch.equal(bare, dressed)
    assert torch.equal(walk(backbone, inputs), dressed)
    if backbone.kinds:
        assert torch.equal(walk_in_pieces(backbone, inputs), dressed)


def walk_in_pieces(backbone, inputs):
    stream = backbone.enter(inputs)
    for index in range(backbone.layers):
        for part in backbone.sublayers(index):
            part.add(stream, part.value(stream))
    return backbone.leave(stream)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_sub_layers_in_turn_are_the_layer_to_the_bit(made, name):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    layers, pieces = backbone.enter(inputs), backbone.enter(inputs)
    for index in range(backbone.layers):
        backbone.layer(index, layers)
        for part in backbone.sublayers(index):
            assert part.kind in backbone.kinds
            value = part.value(pieces)
            assert len(value) == ROWS
            part.add(pieces, value)
        assert len(pieces.hidden) == len(layers.hidden)
        for one, other in zip(pieces.hidden, layers.hidden, strict=True):
            assert torch.equal(one, other)
    assert len(layers.hidden) == 1


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_remembered_sub_layer_enters_through_the_gate_of_now(made, name):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    stream, later = backbone.enter(inputs), backbone.enter({**inputs, "timestep": inputs["timestep"].flip(0)})
    part = backbone.sublayers(0)[0]
    value, before = part.value(stream), stream.hidden[0]
    part.add(stream, value)
    later.hidden = (before, *later.hidden[1:])
    part.add(later, value)
    # Row 1 has the same time in both; the others' gates differ.
    assert torch.equal(later.hidden[0][1], stream.hidden[0][1])
    assert not torch.equal(later.hidden[0][0], stream.hidden[0][0])


@pytest.mark.parametrize("name", ["unet, odd", "pixart, sized", "sd3.5", "flux"])
def test_nothing_is_changed_in_place(made, name):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    stream = backbone.enter(inputs)
    first = replace(stream)
    tensors = [*first.hidden, *first.context.values()]
    copies = [tensor.clone() for tensor in tensors]
    run(backbone, stream, 0, backbone.layers)
    assert all(torch.equal(*pair) for pair in zip(tensors, copies, strict=True))
    assert stream.skips == []


def test_the_shallow_path_is_deepcaches(made):
    """Branches 0 and 1 by hand, with what DeepCache would have remembered of an earlier step."""
    denoiser, inputs = made("unet, odd")
    backbone = backbone_of(denoiser)
    earlier = {**inputs, "sample": inputs["sample"].flip(0), "timestep": inputs["timestep"] + 60}
    block, entered = denoiser.up_blocks[-1], {}
    channels = {0: 16, 1: 16}
    spies = [
        block.resnets[-1 - branch].register_forward_pre_hook(
            lambda _, given, branch=branch: entered.update({branch: given[0][:, : -channels[branch]]})
        )
        for branch in (0, 1)
    ]
    whole(denoiser, earlier)
    for spy in spies:
        spy.remove()
    time = denoiser.time_embedding(denoiser.get_time_embed(inputs["sample"], inputs["timestep"]))
    states = inputs["encoder_hidden_states"]

    def part(owner, number, hidden):
        return owner.attentions[number](owner.resnets[number](hidden, time), encoder_hidden_states=states, return_dict=False)[0]

    def end(hidden):
        return denoiser.conv_out(denoiser.conv_act(denoiser.conv_norm_out(hidden)))

    top = denoiser.conv_in(inputs["sample"])
    second = part(denoiser.down_blocks[0], 0, top)
    by_hand = {
        0: end(part(block, -1, torch.cat([entered[0], top], 1))),
        1: end(part(block, -1, torch.cat([part(block, -2, torch.cat([entered[1], second], 1)), top], 1))),
    }
    for branch, expected in by_hand.items():
        remembered = feature_of(backbone, earlier, UNetSkip(branch))
        assert torch.equal(remembered, entered[branch])
        nobody = torch.empty(0, dtype=torch.long)
        assert torch.equal(run_partly(backbone, inputs, UNetSkip(branch), remembered, nobody), expected)


def test_every_branch_remembers_what_enters_its_up_layer(made):
    denoiser, inputs = made("sdxl, odd")
    backbone, entered = backbone_of(denoiser), []
    resnets = [resnet for block in denoiser.up_blocks for resnet in block.resnets]
    spies = [resnet.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for resnet in resnets]
    whole(denoiser, inputs)
    for spy in spies:
        spy.remove()
    assert backbone.branches == len(resnets)
    for branch, joint in enumerate(reversed(entered)):
        stream, _, _ = cut(backbone, inputs, UNetSkip(branch))
        expected = torch.cat([feature_of(backbone, inputs, UNetSkip(branch)), stream.skips[-1]], 1)
        assert torch.equal(joint, expected)
        assert len(stream.skips) == branch + 1


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_text_is_remembered_only_while_it_is_read(made, name):
    denoiser, inputs = made(name)
    backbone, texts = backbone_of(denoiser), inputs["encoder_hidden_states"].shape[1]
    pictures = backbone.enter(inputs).hidden[0].shape[1]
    for site in sites(backbone):
        length = feature_of(backbone, inputs, site).shape[1]
        assert length == pictures + (texts if site.last else 0)


@pytest.mark.parametrize("name", ["unet", "unet, no middle", "pixart", "sd3", "flux"])
def test_sites_that_are_not_there_are_refused(made, name):
    backbone = backbone_of(made(name)[0])
    if name.startswith("unet"):
        strange = [
            (UNetSkip(backbone.branches), "branches are 0 to"),
            (UNetSkip(-1), "branches"),
            (BlockStack(), "no st"),
        ]
    else:
        strange = [
            (BlockStack(backbone.layers, 0), "at least one"),
            (BlockStack(1, backbone.layers - 1), "at least one"),
            (BlockStack(-1, 0), "at least one"),
            (UNetSkip(0), "no skip connections"),
        ]
    for site, words in strange:
        with pytest.raises(UnsupportedSite, match=words) as refusal:
            backbone.span(site)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("unet", "mid_block_additional_residual"),
        ("unet", "cross_attention_kwargs"),
        ("unet", "timestep_cond"),
        ("pixart", "attention_mask"),
        ("sd3", "skip_layers"),
        ("sd3", "joint_attention_kwargs"),
        ("flux", "controlnet_block_samples"),
        ("flux", "joint_attention_kwargs"),
    ],
)
def test_inputs_it_does_not_know_are_refused(made, name, extra):
    denoiser, inputs = made(name)
    backbone = backbone_of(denoiser)
    with pytest.raises(UnsupportedSite, match=extra):
        backbone.enter({**inputs, extra: {}})
    assert torch.equal(walk(backbone, {**inputs, extra: None, "return_dict": False}), whole(denoiser, inputs))


def test_freeu_is_refused_whenever_it_is_switched_on(caplog):
    denoiser, inputs = unet(levels=2)
    backbone = backbone_of(denoiser.eval())
    denoiser.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with pytest.raises(UnsupportedSite, match="FreeU"):
        backbone.enter(inputs)
    assert backbone_of(denoiser) is None
    assert "FreeU" in caplog.text
    denoiser.disable_freeu()
    assert torch.equal(walk(backbone, inputs), whole(denoiser, inputs))


def strange_unet(**settings):
    return unet(levels=2, **settings)[0]


def swapped(make, **parts):
    """A transformer with foreign blocks."""
    model, _ = make()
    for name, block in parts.items():
        blocks = model.get_submodule(name)
        blocks[0] = block
    return model


STRANGE = {
    "block SimpleCrossAttnDownBlock2D": lambda: strange_unet(
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D")
    ),
    "block AttnUpBlock2D": lambda: strange_unet(up_block_types=("UpBlock2D", "AttnUpBlock2D")),
    "block UNetMidBlock2DSimpleCrossAttn": lambda: strange_unet(mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
    "conditions": lambda: strange_unet(class_embed_type="timestep"),
    "picture prompts": lambda: strange_unet(encoder_hid_dim_type="image_proj", encoder_hid_dim=12),
    "block Identity": lambda: swapped(sd3, transformer_blocks=torch.nn.Identity()),
    "block Linear": lambda: swapped(flux, single_transformer_blocks=torch.nn.Linear(1, 1)),
    "block ReLU": lambda: swapped(pixart, transformer_blocks=torch.nn.ReLU()),
    "both kinds": lambda: flux(doubles=0)[0],
    "denoiser AutoencoderKL": AutoencoderKL,
}


@pytest.mark.parametrize("words", STRANGE)
def test_models_it_does_not_know_have_no_backbone_and_one_line_says_why(caplog, words):
    with caplog.at_level(logging.WARNING):
        assert backbone_of(STRANGE[words]()) is None
    messages = [record.message for record in caplog.records if record.name.startswith("service")]
    assert len(messages) == 1
    assert words in messages[0]
    assert "\n" not in messages[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unet", Traits("unet", 9, (), True)),
        ("unet, no middle", Traits("unet", 8, (), True)),
        ("pixart", Traits("transformer", 4, ("attention", "cross-attention", "feed-forward"), True)),
        ("sd3", Traits("transformer", 3, ("attention", "feed-forward"), True)),
        ("flux", Traits("transformer", 4, ("attention", "feed-forward"), True)),
    ],
)
def test_traits(made, name, expected):
    backbone = backbone_of(made(name)[0])
    assert traits_of(backbone, guided=True) == expected
    assert traits_of(backbone, guided=False) == replace(expected, guided=False)


class TestIndicators:
    SHARE = torch.tensor([0.9, 0.1, 0.4])

    def look(self, made, name, kind, site, **changes):
        denoiser, inputs = made(name)
        backbone = backbone_of(denoiser)
        inputs = {**inputs, NOISE_SHARE: self.SHARE, **changes}
        first = backbone.enter(inputs)
        now, *_ = cut(backbone, inputs, site)
        return backbone.indicator(kind, first, now), first, now

    @pytest.mark.parametrize("name", DENOISERS)
    def test_rows_come_first_and_are_each_ones_own(self, made, name):
        denoiser, _ = made(name)
        site = UNetSkip(0) if name not in TRANSFORMERS else BlockStack(1, 0)
        kinds = ["entry", "increment", "timestep", "filtered", *(["modulated-input"] if name in TRANSFORMERS else [])]
        for kind in kinds:
            seen, first, now = self.look(made, name, kind, site)
            assert len(seen) == ROWS
            assert seen.isfinite().all()
            rows = torch.tensor([2, 0])
            some = backbone_of(denoiser).indicator(kind, first.take(rows), now.take(rows))
            assert relative_change(some, seen[rows]).max() < (1e-2 if seen.dtype != torch.float32 else 1e-5)

    @pytest.mark.parametrize("name", ["pixart", "pixart, sized", "sd3", "sd3.5", "flux", "flux, unguided"])
    def test_the_modulated_input_is_what_the_first_attention_reads(self, made, name):
        denoiser, inputs = made(name)
        read = []
        block = denoiser.transformer_blocks[0]
        attention = block.attn1 if name.startswith("pixart") else block.attn
        with attention.register_forward_pre_hook(
            lambda _, given, named: read.append(given[0] if given else named["hidden_states"]), with_kwargs=True
        ):
            whole(denoiser, inputs)
        seen, *_ = self.look(made, name, "modulated-input", BlockStack())
        assert torch.equal(seen, read[0])

    @pytest.mark.parametrize("name", DENOISERS)
    def test_time_alone_changes_what_depends_on_it(self, made, name):
        _, inputs = made(name)
        site = UNetSkip(0) if name not in TRANSFORMERS else BlockStack()
        other = {"timestep": inputs["timestep"].flip(0)}
        for kind in ("timestep", *(["modulated-input"] if name in TRANSFORMERS else [])):
            seen = [self.look(made, name, kind, site, **change)[0] for change in ({}, other)]
            assert ((seen[0] - seen[1]).flatten(1).abs().max(1).values > 0).tolist() == [True, False, True]

    def test_entry_and_increment_are_those_of_the_span(self, made):
        denoiser, inputs = made("flux")
        backbone = backbone_of(denoiser)
        entry, first, _ = self.look(made, "flux", "entry", BlockStack(2, 1))
        increment, *_ = self.look(made, "flux", "increment", BlockStack(2, 1))
        stream = backbone.enter(inputs)
        run(backbone, stream, 0, 2)
        assert torch.equal(entry, stream.hidden[0])
        assert torch.equal(increment, stream.hidden[0] - first.hidden[0])

    def test_a_unet_has_no_increment_across_sizes(self, made):
        with pytest.raises(UnsupportedSite, match="size"):
            self.look(made, "unet", "increment", UNetSkip(3))
        with pytest.raises(UnsupportedSite, match="modulate"):
            self.look(made, "unet", "modulated-input", UNetSkip(0))

    @pytest.mark.parametrize("name", ["unet", "pixart", "sd3", "flux"])
    def test_the_filter_needs_the_noise_share_and_nothing_else_does(self, made, name):
        denoiser, inputs = made(name)
        backbone = backbone_of(denoiser)
        stream = backbone.enter(inputs)
        with pytest.raises(UnsupportedSite, match="noise_share"):
            backbone.indicator("filtered", stream, stream)
        assert torch.equal(walk(backbone, {**inputs, NOISE_SHARE: self.SHARE}), whole(denoiser, inputs))

    @pytest.mark.parametrize("name", ["pixart, sized", "sd3.5", "flux"])
    def test_tokens_are_filtered_in_their_places(self, made, name):
        seen, first, _ = self.look(made, name, "filtered", BlockStack())
        height, width = (5, 8) if name == "flux" else (8, 5)
        tokens = first.hidden[0]
        assert seen.shape == (ROWS, tokens.shape[2], height, width)
        laid = torch.stack([tokens[:, place] for place in range(height * width)], -1).view(seen.shape)
        torch.testing.assert_close(seen, filtered(laid, self.SHARE), atol=1e-6, rtol=0)

    def test_streams_of_other_kinds_are_possible(self, made):
        # The contract needs no more than `hidden` and `context`.
        stream = Stream((torch.ones(2, 3),), {"time": torch.zeros(2, 1)})
        assert len(stream.take(torch.tensor([1]))) == 1
