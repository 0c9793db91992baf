"""Tiny denoisers of every architecture inputs for three rows at different times, and ways to run parts of them."""

from functools import partial
from inspect import signature

import torch
from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from engine_helpers import spec

from policies.features.base import BlockStack, UNetSkip
from service.engine.features.backbones.unet import UNetBackbone
from service.engine.loop import StepLoop

ROWS = 3


def unet(levels=3, layers=2, side=16, middle=True, **settings):
    """As Stable Diffusion's, which attends everywhere but at the bottom."""
    down = ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"]
    fields = {
        "sample_size": 16,
        "block_out_channels": (16, 32, 48)[:levels],
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "cross_attention_dim": 12,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else None,
    }
    model = UNet2DConditionModel(**{**fields, **settings})
    inputs = {"sample": torch.randn(ROWS, 4, *sides(side)), "encoder_hidden_states": torch.randn(ROWS, 7, 12)}
    return model, {**inputs, "timestep": torch.tensor([900.0, 20.0, 411.0])}


def sdxl(side=16, **settings):
    model, inputs = unet(
        side=side,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 10,
        **settings,
    )
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64], [32, 64, 0, 0, 32, 64], [64, 32, 8, 0, 64, 32]])
    return model, {**inputs, "added_cond_kwargs": {"text_embeds": torch.randn(ROWS, 10), "time_ids": sizes}}


def pixart(layers=4, side=16, sized=False, **settings):
    fields = {
        "sample_size": 16,
        "num_layers": layers,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "cross_attention_dim": 24,
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": 10,
        "use_additional_conditions": sized,
        "interpolation_scale": 2,
    }
    sizes = {"resolution": torch.tensor([[64.0, 64], [32, 64], [64, 32]]), "aspect_ratio": torch.rand(ROWS, 1)}
    return PixArtTransformer2DModel(**{**fields, **settings}), {
        "hidden_states": torch.randn(ROWS, 4, *sides(side)),
        "encoder_hidden_states": torch.randn(ROWS, 9, 10),
        "encoder_attention_mask": (torch.arange(9) < torch.tensor([[9], [2], [5]])).long(),
        "timestep": torch.tensor([900.0, 20.0, 411.0]),
        "added_cond_kwargs": sizes if sized else {"resolution": None, "aspect_ratio": None},
    }


def sd3(layers=3, side=16, dual=(), dtype=torch.float32):
    model = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=24,
        dual_attention_layers=dual,
        qk_norm="rms_norm" if dual else None,
    )
    return model.to(dtype), {
        "hidden_states": torch.randn(ROWS, 4, *sides(side)).to(dtype),
        "timestep": torch.tensor([900.0, 20.0, 411.0]),
        "encoder_hidden_states": torch.randn(ROWS, 9, 12).to(dtype),
        "pooled_projections": torch.randn(ROWS, 10).to(dtype),
    }


def flux(doubles=2, singles=2, guided=True, dtype=torch.float32):
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=doubles,
        num_single_layers=singles,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
    places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(5), torch.arange(8))
    return model.to(dtype), {
        "hidden_states": torch.randn(ROWS, 40, 16).to(dtype),
        "timestep": torch.tensor([0.9, 0.02, 0.41]).to(dtype),
        "guidance": torch.tensor([3.5, 1.0, 7.0]) if guided else None,
        "pooled_projections": torch.randn(ROWS, 10).to(dtype),
        "encoder_hidden_states": torch.randn(ROWS, 9, 12).to(dtype),
        "txt_ids": torch.zeros(9, 3),
        "img_ids": places,
    }


def sides(side):
    return (side, side) if isinstance(side, int) else side


def lowered(make, dtype=torch.bfloat16):
    """The same in fewer bits; times stay as they are."""
    model, inputs = make()
    kept = {name: value for name, value in inputs.items() if name in ("timestep", "encoder_attention_mask")}
    floats = {name: value.to(dtype) for name, value in inputs.items() if torch.is_tensor(value)}
    return model.to(dtype), {**inputs, **floats, **kept}


DENOISERS = {
    "unet": unet,
    "unet, one layer a block": partial(unet, layers=1, levels=2),
    "unet, layers differ": partial(unet, layers=(1, 2, 1)),
    "unet, no middle": partial(unet, middle=False),
    "unet, odd": partial(unet, side=(13, 18)),
    "unet, odd below": partial(unet, side=(16, 14)),
    "unet, centred": partial(unet, levels=2, center_input_sample=True),
    "unet, bfloat16": partial(lowered, unet),
    "sdxl": sdxl,
    "sdxl, odd": partial(sdxl, side=(15, 11)),
    "pixart": pixart,
    "pixart, sized": partial(pixart, sized=True, side=(16, 10)),
    "pixart, plain captions": partial(pixart, layers=2, caption_channels=None, cross_attention_dim=10),
    "pixart, bfloat16": partial(lowered, pixart),
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
TRANSFORMERS = [name for name in DENOISERS if not name.startswith(("unet", "sdxl"))]


def whole(denoiser, inputs):
    return denoiser(**inputs, return_dict=False)[0]


def asked_by(pipeline):
    """What a family asks of its denoiser in the middle of a batch of three jobs, two of them guided; by keyword."""
    solver, calls = pipeline.info.solvers[0], []
    loop = StepLoop(pipeline)
    for number, steps in enumerate((4, 5, 7)):
        scale = (3.0, 1.0, 5.0)[number]
        item = spec(
            str(number), solver=solver, steps=steps, guidance_scale=scale, seed=number, prompt="ball" * number
        )
        loop.submit(item, 0.0)
    spy = pipeline._denoiser.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
    with spy:
        while not loop.idle:
            loop.tick()
    given, named = calls[3]
    return dict(zip(signature(type(pipeline._denoiser).forward).parameters, (None, *given), strict=False)) | named


def sites(backbone):
    """Every legal site."""
    if isinstance(backbone, UNetBackbone):
        return [UNetSkip(branch) for branch in range(backbone.branches)]
    ends = range(backbone.layers)
    return [BlockStack(first, last) for first in ends for last in ends if first + last < backbone.layers]


def run(backbone, stream, first, last):
    for index in range(first, last):
        backbone.layer(index, stream)


def cut(backbone, inputs, site):
    """The stream at the beginning of a site's span, and the span."""
    first, last = backbone.span(site)
    stream = backbone.enter(inputs)
    run(backbone, stream, 0, first)
    return stream, first, last


def feature_of(backbone, inputs, site):
    stream, first, last = cut(backbone, inputs, site)
    before = stream.hidden
    run(backbone, stream, first, last)
    return backbone.feature(before, stream.hidden)


def run_partly(backbone, inputs, site, remembered, rows):
    """The output, where only some rows walk the span; the others are given what is remembered."""
    stream, first, last = cut(backbone, inputs, site)
    restored = backbone.restore(stream.hidden, remembered)
    if len(rows):
        some = stream.take(rows)
        run(backbone, some, first, last)
        assert len(some.hidden) == len(restored)
        restored = tuple(whole.index_copy(0, rows, part) for whole, part in zip(restored, some.hidden, strict=True))
    stream.hidden = restored
    run(backbone, stream, last, backbone.layers)
    return backbone.leave(stream)
