"""UNet2DConditionModel of Stable Diffusion and SDXL, flattened into down, middle and up layers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from torch import Tensor

from policies.features.base import BlockStack, UNetSkip
from service.engine.features.backbone import Backbone, Inputs, Stream, UnsupportedSite, context_of

DOWN = (CrossAttnDownBlock2D, DownBlock2D)
MIDDLE = (UNetMidBlock2DCrossAttn, UNetMidBlock2D)
UP = (CrossAttnUpBlock2D, UpBlock2D)
INPUTS = frozenset({"sample", "timestep", "encoder_hidden_states", "added_cond_kwargs"})

Part = Callable[[int, Stream], None]
"""A down layer, given the number of the skip connection it leaves, or an up layer, given the one it consumes."""


class UNetBackbone(Backbone):
    """A UNet as a row of layers: every resnet (with its attention) and every down-sampler leaves one skip connection.

    An up layer is a resnet with its attention and, at the end of a block, the up-sampler. So skip connection n is
    consumed by up layer S - 1 - n of S, and what enters there is what DeepCache (Ma et al. 2023, arXiv 2312.00858)
    remembers; any number of layers per block will do.

    Args:
        unet: diffusers' model.

    Raises:
        UnsupportedSite: it has blocks of another kind, or inputs besides text, time, pooled text and picture size.
    """

    channel_axis = 1
    adds = False

    def __init__(self, unet: Any) -> None:
        _check(unet)
        self._unet = unet
        downs = [part for block in unet.down_blocks for part in _down_layers(block)]
        ups = [part for block in unet.up_blocks for part in _up_layers(block)]
        down = [partial(part, number) for number, part in enumerate(downs, 1)]
        middle = [] if unet.mid_block is None else [partial(_middle, unet.mid_block)]
        up = [partial(part, len(downs) - number) for number, part in enumerate(ups)]
        self._calls: list[Callable[[Stream], None]] = [*down, *middle, *up]
        self._down = len(down)
        self._middle = len(middle)
        self.layers = len(self._calls)

    @property
    def branches(self) -> int:
        """Skip connections to cut at; at the deepest only the middle block is saved."""
        return self._down + bool(self._middle)

    def enter(self, inputs: Inputs) -> Stream:
        """Embed time and conditions, run `conv_in`."""
        unet, sample, states = self._unet, inputs["sample"], inputs["encoder_hidden_states"]
        _check_plain(unet)
        added = inputs.get("added_cond_kwargs")
        if unet.config.center_input_sample:
            sample = 2 * sample - 1.0
        embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=inputs["timestep"]))
        more = unet.get_aug_embed(emb=embedding, encoder_hidden_states=states, added_cond_kwargs=added)
        embedding = embedding if more is None else embedding + more
        if unet.time_embed_act is not None:
            embedding = unet.time_embed_act(embedding)
        states = unet.process_encoder_hidden_states(encoder_hidden_states=states, added_cond_kwargs=added)
        hidden = unet.conv_in(sample)
        # Only where halving leaves a remainder is the up-sampler told what size to make, as in diffusers.
        uneven = any(side % 2**unet.num_upsamplers for side in sample.shape[-2:])
        return Stream(
            (hidden,),
            context_of(inputs, INPUTS, time=embedding, states=states),
            {"uneven": uneven, "sides": {0: hidden.shape[2:]}},
            [hidden],
        )

    def layer(self, index: int, stream: Stream) -> None:
        """Run one down, middle or up layer."""
        self._calls[index](stream)

    def leave(self, stream: Stream) -> Tensor:
        """Run what follows the last up block."""
        unet, hidden = self._unet, stream.hidden[0]
        if unet.conv_norm_out:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        output: Tensor = unet.conv_out(hidden)
        return output

    def span(self, site: UNetSkip | BlockStack) -> tuple[int, int]:
        """Return the layers below a skip connection, up to the up layer that consumes it."""
        if not isinstance(site, UNetSkip):
            raise UnsupportedSite("a UNet has no stack of blocks to cache; its sites are skip connections")
        if not 0 <= site.branch < self.branches:
            raise UnsupportedSite(f"this UNet's branches are 0 to {self.branches - 1}")
        return site.branch, self._down + self._middle + self._down - site.branch

    def feature(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return the hidden state itself: it replaces the deep path, it is not added to it."""
        return after[0]

    def restore(self, before: Sequence[Tensor], feature: Tensor) -> tuple[Tensor, ...]:
        """Return the remembered hidden state."""
        return (feature,)

    def grid(self, first: Stream) -> Tensor:
        """Return what `conv_in` makes of the latents."""
        return first.hidden[0]


def _down_layers(block: Any) -> list[Part]:
    attentions = block.attentions if isinstance(block, CrossAttnDownBlock2D) else [None] * len(block.resnets)
    layers = [partial(_down, resnet, attention) for resnet, attention in zip(block.resnets, attentions, strict=True)]
    return [*layers, *(partial(_shrink, sampler) for sampler in block.downsamplers or ())]


def _up_layers(block: Any) -> list[Part]:
    attentions = block.attentions if isinstance(block, CrossAttnUpBlock2D) else [None] * len(block.resnets)
    last = len(block.resnets) - 1
    return [
        partial(_up, resnet, attention, tuple(block.upsamplers or ()) if number == last else ())
        for number, (resnet, attention) in enumerate(zip(block.resnets, attentions, strict=True))
    ]


def _down(resnet: Any, attention: Any, number: int, stream: Stream) -> None:
    _leave_skip(number, _attend(attention, resnet(stream.hidden[0], stream.context["time"]), stream), stream)


def _shrink(sampler: Any, number: int, stream: Stream) -> None:
    _leave_skip(number, sampler(stream.hidden[0]), stream)


def _leave_skip(number: int, hidden: Tensor, stream: Stream) -> None:
    stream.hidden = (hidden,)
    stream.skips.append(hidden)
    # A stream of some rows has only the skips of its own layers, but must know how large those above are.
    stream.shared["sides"][number] = hidden.shape[2:]


def _middle(block: Any, stream: Stream) -> None:
    hidden, time = stream.hidden[0], stream.context["time"]
    if isinstance(block, UNetMidBlock2DCrossAttn):
        hidden = block(hidden, time, encoder_hidden_states=stream.context["states"])
    else:
        hidden = block(hidden, time)
    stream.hidden = (hidden,)


def _up(resnet: Any, attention: Any, samplers: Sequence[Any], number: int, stream: Stream) -> None:
    hidden = resnet(torch.cat([stream.hidden[0], stream.skips.pop()], dim=1), stream.context["time"])
    hidden = _attend(attention, hidden, stream)
    for sampler in samplers:
        hidden = sampler(hidden, stream.shared["sides"][number - 1] if stream.shared["uneven"] else None)
    stream.hidden = (hidden,)


def _attend(attention: Any, hidden: Tensor, stream: Stream) -> Tensor:
    if attention is None:
        return hidden
    attended: Tensor = attention(hidden, encoder_hidden_states=stream.context["states"], return_dict=False)[0]
    return attended


def _check(unet: Any) -> None:
    parts = [(unet.down_blocks, DOWN), (unet.up_blocks, UP), ([unet.mid_block] if unet.mid_block else [], MIDDLE)]
    strange = [type(block).__name__ for blocks, known in parts for block in blocks if type(block) not in known]
    if strange:
        raise UnsupportedSite(f"feature caching does not know the UNet's block {strange[0]}")
    config = unet.config
    if config.class_embed_type or config.num_class_embeds or config.addition_embed_type not in (None, "text_time"):
        raise UnsupportedSite("feature caching does not know this UNet's conditions")
    if config.encoder_hid_dim_type not in (None, "text_proj"):
        raise UnsupportedSite("feature caching does not know the UNet's picture prompts")
    _check_plain(unet)


def _check_plain(unet: Any) -> None:
    """Refuse FreeU, which rewrites what enters the up layers and may be switched on at any time."""
    if any(vars(block).get("b1") for block in unet.up_blocks):
        raise UnsupportedSite("feature caching does not know FreeU")
