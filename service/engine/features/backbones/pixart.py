"""PixArtTransformer2DModel of PixArt-Σ, block by block and sub-layer by sub-layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.features.base import BlockStack, Indicator, UNetSkip
from service.engine.features.backbone import Backbone, Inputs, Stream, SubLayerCall, UnsupportedSite


class PixArtBackbone(Backbone):
    """PixArt's blocks (self-attention, cross-attention and feed-forward, all modulated by one time embedding).

    What is remembered of a span is what its blocks added to the hidden states.

    Args:
        transformer: diffusers' model.

    Raises:
        UnsupportedSite: its blocks are normalised in another way.
    """

    kinds = ("attention", "cross-attention", "feed-forward")

    def __init__(self, transformer: Any) -> None:
        if transformer.config.norm_type != "ada_norm_single":
            raise UnsupportedSite("feature caching does not know this transformer's normalisation")
        self._model = transformer
        self.layers = len(transformer.transformer_blocks)

    def enter(self, inputs: Inputs) -> Stream:
        """Embed latents, time and text; turn the mask into a bias."""
        model, latents = self._model, inputs["hidden_states"]
        states, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        bias = ((1 - mask.to(latents.dtype)) * -10000.0).unsqueeze(1)
        patch = model.config.patch_size
        hidden = model.pos_embed(latents)
        time, embedded = model.adaln_single(
            inputs["timestep"], inputs["added_cond_kwargs"], batch_size=len(latents), hidden_dtype=hidden.dtype
        )
        if model.caption_projection is not None:
            states = model.caption_projection(states).view(len(latents), -1, hidden.shape[-1])
        size = (latents.shape[-2] // patch, latents.shape[-1] // patch)
        context = {"states": states, "bias": bias, "time": time, "embedded": embedded}
        return Stream((hidden,), context, {"size": size})

    def layer(self, index: int, stream: Stream) -> None:
        """Run one block."""
        context = stream.context
        hidden: Tensor = self._model.transformer_blocks[index](
            stream.hidden[0],
            attention_mask=None,
            encoder_hidden_states=context["states"],
            encoder_attention_mask=context["bias"],
            timestep=context["time"],
            cross_attention_kwargs=None,
            class_labels=None,
        )
        stream.hidden = (hidden,)

    def leave(self, stream: Stream) -> Tensor:
        """Normalise, project and put the patches together."""
        model, patch, (height, width) = self._model, self._model.config.patch_size, stream.shared["size"]
        shift, scale = (model.scale_shift_table[None] + stream.context["embedded"][:, None]).chunk(2, dim=1)
        hidden = model.proj_out(model.norm_out(stream.hidden[0]) * (1 + scale) + shift).squeeze(1)
        hidden = hidden.reshape(shape=(-1, height, width, patch, patch, model.out_channels))
        hidden = torch.einsum("nhwpqc->nchpwq", hidden)
        return hidden.reshape(shape=(-1, model.out_channels, height * patch, width * patch))

    def span(self, site: UNetSkip | BlockStack) -> tuple[int, int]:
        """Return the blocks between the first and the last ones."""
        return block_span(site, self.layers)

    def feature(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return what the blocks added."""
        return after[0] - before[0]

    def restore(self, before: Sequence[Tensor], feature: Tensor) -> tuple[Tensor, ...]:
        """Add what the blocks added when they were last run."""
        return (before[0] + feature,)

    def sublayers(self, index: int) -> tuple[SubLayerCall, ...]:
        """Return self-attention, cross-attention and feed-forward of one block."""
        block = self._model.transformer_blocks[index]
        return (_Attention(block), _CrossAttention(block), _FeedForward(block))

    def indicator(self, kind: Indicator, first: Stream, now: Stream) -> Tensor:
        """Return what a probing policy looks at."""
        block = self._model.transformer_blocks[0]
        if kind == "modulated-input":
            shift, scale, *_ = _modulation(block, first)
            modulated: Tensor = block.norm1(first.hidden[0]) * (1 + scale) + shift
            return modulated
        if kind == "timestep":
            return first.context["embedded"]
        return super().indicator(kind, first, now)


def block_span(site: UNetSkip | BlockStack, layers: int) -> tuple[int, int]:
    """Return the span of a stack of so many blocks.

    Raises:
        UnsupportedSite: it is a UNet's site, or nothing would be left between the first and the last blocks.
    """
    if not isinstance(site, BlockStack):
        raise UnsupportedSite("a transformer has no skip connections to cut at; its site is the stack of blocks")
    if site.first < 0 or site.last < 0 or site.first + site.last >= layers:
        raise UnsupportedSite(f"of {layers} blocks at least one must lie between the first and the last ones")
    return site.first, layers - site.last


def _modulation(block: Any, stream: Stream) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of the self-attention, then of the feed-forward."""
    time = stream.context["time"]
    return tuple((block.scale_shift_table[None] + time.reshape(len(stream), 6, -1)).chunk(6, dim=1))


@dataclass(frozen=True)
class _Attention:
    block: Any
    kind = "attention"

    def value(self, stream: Stream) -> Tensor:
        shift, scale, *_ = _modulation(self.block, stream)
        attended: Tensor = self.block.attn1(self.block.norm1(stream.hidden[0]) * (1 + scale) + shift)
        return attended

    def add(self, stream: Stream, value: Tensor) -> None:
        stream.hidden = (_modulation(self.block, stream)[2] * value + stream.hidden[0],)


@dataclass(frozen=True)
class _CrossAttention:
    block: Any
    kind = "cross-attention"

    def value(self, stream: Stream) -> Tensor:
        attended: Tensor = self.block.attn2(
            stream.hidden[0],
            encoder_hidden_states=stream.context["states"],
            attention_mask=stream.context["bias"],
        )
        return attended

    def add(self, stream: Stream, value: Tensor) -> None:
        stream.hidden = (value + stream.hidden[0],)


@dataclass(frozen=True)
class _FeedForward:
    block: Any
    kind = "feed-forward"

    def value(self, stream: Stream) -> Tensor:
        *_, shift, scale, _gate = _modulation(self.block, stream)
        fed: Tensor = self.block.ff(self.block.norm2(stream.hidden[0]) * (1 + scale) + shift)
        return fed

    def add(self, stream: Stream, value: Tensor) -> None:
        stream.hidden = (_modulation(self.block, stream)[5] * value + stream.hidden[0],)
