"""PixArtTransformer2DModel of PixArt-Σ, block by block and sub-layer by sub-layer."""

from dataclasses import dataclass
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from service.engine.features.backbone import Inputs, Stream, SubLayerCall, UnsupportedSite, context_of
from service.engine.features.backbones.stack import Stack, unpatched

INPUTS = frozenset(
    {"hidden_states", "encoder_hidden_states", "encoder_attention_mask", "timestep", "added_cond_kwargs"}
)


class PixArtBackbone(Stack):
    """PixArt's blocks: self-attention, cross-attention and feed-forward, modulated by one time embedding.

    Args:
        transformer: diffusers' model.

    Raises:
        UnsupportedSite: it has blocks of another kind.
    """

    kinds = ("attention", "cross-attention", "feed-forward")

    def __init__(self, transformer: Any) -> None:
        blocks = list(transformer.transformer_blocks)
        strange = [type(block).__name__ for block in blocks if type(block) is not BasicTransformerBlock]
        if strange:
            raise UnsupportedSite(f"feature caching does not know the transformer's block {strange[0]}")
        if any(block.norm_type != "ada_norm_single" for block in blocks):
            raise UnsupportedSite("feature caching does not know this transformer's normalisation")
        if any(block.attn2 is None or block.only_cross_attention for block in blocks):
            raise UnsupportedSite("feature caching does not know this transformer's attention")
        self._model = transformer
        self._blocks = blocks
        self.layers = len(blocks)

    def enter(self, inputs: Inputs) -> Stream:
        """Embed latents, time and text; turn the mask into a bias."""
        model, latents = self._model, inputs["hidden_states"]
        states, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        bias = ((1 - mask.to(latents.dtype)) * -10000.0).unsqueeze(1)
        hidden = model.pos_embed(latents)
        modulated, time = model.adaln_single(
            inputs["timestep"], inputs["added_cond_kwargs"], batch_size=len(latents), hidden_dtype=hidden.dtype
        )
        if model.caption_projection is not None:
            states = model.caption_projection(states).view(len(latents), -1, hidden.shape[-1])
        height, width = (side // model.config.patch_size for side in latents.shape[-2:])
        context = context_of(inputs, INPUTS, time=time, modulated=modulated, states=states, bias=bias)
        return Stream((hidden,), context, {"size": (height, width)})

    def layer(self, index: int, stream: Stream) -> None:
        """Run one block."""
        context = stream.context
        hidden: Tensor = self._blocks[index](
            stream.hidden[0],
            attention_mask=None,
            encoder_hidden_states=context["states"],
            encoder_attention_mask=context["bias"],
            timestep=context["modulated"],
            cross_attention_kwargs=None,
            class_labels=None,
        )
        stream.hidden = (hidden,)

    def leave(self, stream: Stream) -> Tensor:
        """Normalise, project and put the patches together."""
        model = self._model
        shift, scale = (model.scale_shift_table[None] + stream.context["time"][:, None]).chunk(2, dim=1)
        tokens = model.proj_out(model.norm_out(stream.hidden[0]) * (1 + scale) + shift)
        return unpatched(tokens, stream.shared["size"], model.config.patch_size, model.out_channels)

    def sublayers(self, index: int) -> tuple[SubLayerCall, ...]:
        """Return self-attention, cross-attention and feed-forward of one block."""
        block = self._blocks[index]
        return (_Attention(block), _CrossAttention(block), _FeedForward(block))

    def modulated(self, first: Stream) -> Tensor:
        """Return what the first block's self-attention reads."""
        return _read(self._blocks[0], first)


def _modulation(block: Any, stream: Stream) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of the self-attention, then of the feed-forward, [R, 1, D] each."""
    modulated = stream.context["modulated"].reshape(len(stream), 6, -1)
    return tuple((block.scale_shift_table[None] + modulated).chunk(6, dim=1))


def _read(block: Any, stream: Stream) -> Tensor:
    shift, scale, *_ = _modulation(block, stream)
    read: Tensor = block.norm1(stream.hidden[0]) * (1 + scale) + shift
    return read


@dataclass(frozen=True)
class _Attention:
    block: Any
    kind = "attention"

    def value(self, stream: Stream) -> Tensor:
        attended: Tensor = self.block.attn1(_read(self.block, stream))
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
