"""Denoisers taken apart: layer by layer they are what they are as a whole, and any rows may leave any span out."""

import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig
from taken_apart import (
    DENOISERS,
    ROWS,
    TRANSFORMERS,
    asked_by,
    cut,
    feature_of,
    flux,
    pixart,
    run,
    run_partly,
    sd3,
    sites,
    unet,
    whole,
)
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3
from tiny_sdxl import build_tiny_sdxl

from benchmarks.tiny_model import build_tiny_model
from policies.features.base import BlockStack, UNetSkip
from policies.features.choice import Traits
from service.engine.features.backbone import UnsupportedSite, walk
from service.engine.features.backbones import backbone_of, traits_of
from service.engine.loading import load_pipeline

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


@pytest.fixture(autouse=True, scope="module")
def _inference():
    with torch.inference_mode():
        yield


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
    del inputs["self"], inputs["return_dict"]
    backbone, expected = backbone_of(pipeline._denoiser), whole(pipeline._denoiser, inputs)
    assert len(expected) == (3 if "flux" in name else 5)
    assert len(set(inputs["timestep"].tolist())) == 3
    assert torch.equal(walk(backbone, inputs), expected)
    assert_any_rows_may_skip(backbone, inputs, expected, 1e-5)


@pytest.mark.parametrize("name", ["sdxl", "sd3.5", "flux"])
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


def test_fluxs_half_precision_stays_finite_in_pieces_too():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser, inputs = DENOISERS["flux, float16"]()
    denoiser.context_embedder.bias.fill_(65000)
    for block in denoiser.transformer_blocks:
        block.ff_context.net[2].bias.fill_(65000)
    denoiser.single_transformer_blocks[0].proj_out.bias.fill_(65000)
    backbone = backbone_of(denoiser.eval())
    layers, pieces = backbone.enter(inputs), backbone.enter(inputs)
    for index in range(backbone.layers - 1):
        backbone.layer(index, layers)
        for part in backbone.sublayers(index):
            part.add(pieces, part.value(pieces))
        assert layers.hidden[1].max() == 65504
        assert all(torch.equal(*pair) for pair in zip(layers.hidden, pieces.hidden, strict=True))


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
        return owner.attentions[number](
            owner.resnets[number](hidden, time), encoder_hidden_states=states, return_dict=False
        )[0]

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
