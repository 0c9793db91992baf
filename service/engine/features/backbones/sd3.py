"""SD3Transformer2DModel of Stable Diffusion 3 and 3.5, block by block and sub-layer by sub-layer."""

from dataclasses import dataclass
from typing import Any

from diffusers.models.attention import JointTransformerBlock
from torch import Tensor

from service.engine.features.backbone import Inputs, Stream, SubLayerCall, UnsupportedSite, context_of
from service.engine.features.backbones.stack import JointFeedForward, Stack, joined, modulation, unpatched

INPUTS = frozenset({"hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"})


class SD3Backbone(Stack):
    """SD3's blocks: one attention over picture and text, 3.5's second one over the picture, and feed-forwards.

    Args:
        transformer: diffusers' model.

    Raises:
        UnsupportedSite: it has blocks of another kind.
    """

    kinds = ("attention", "feed-forward")

    def __init__(self, transformer: Any) -> None:
        blocks = list(transformer.transformer_blocks)
        strange = [type(block).__name__ for block in blocks if type(block) is not JointTransformerBlock]
        if strange:
            raise UnsupportedSite(f"feature caching does not know the transformer's block {strange[0]}")
        self._model = transformer
        self._blocks = blocks
        self.layers = len(blocks)

    def enter(self, inputs: Inputs) -> Stream:
        """Embed latents, time, pooled text and text."""
        model, latents = self._model, inputs["hidden_states"]
        patch = model.config.patch_size
        picture = model.pos_embed(latents).contiguous()
        time = model.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
        text = model.context_embedder(inputs["encoder_hidden_states"])
        size = (latents.shape[-2] // patch, latents.shape[-1] // patch)
        return Stream((picture, text), context_of(inputs, INPUTS, time=time), {"size": size})

    def layer(self, index: int, stream: Stream) -> None:
        """Run one block."""
        picture, text = stream.hidden
        text, picture = self._blocks[index](
            hidden_states=picture, encoder_hidden_states=text, temb=stream.context["time"]
        )
        stream.hidden = (picture,) if text is None else (picture, text)

    def leave(self, stream: Stream) -> Tensor:
        """Normalise, project and put the patches together."""
        model = self._model
        tokens = model.proj_out(model.norm_out(stream.hidden[0], stream.context["time"]))
        return unpatched(tokens, stream.shared["size"], model.config.patch_size, model.out_channels)

    def sublayers(self, index: int) -> tuple[SubLayerCall, ...]:
        """Return attention and feed-forward of one block."""
        block = self._blocks[index]
        return (_Attention(block), JointFeedForward(block, text=not block.context_pre_only))

    def modulated(self, first: Stream) -> Tensor:
        """Return what the first block's attention reads of the picture."""
        read: Tensor = self._blocks[0].norm1(first.hidden[0], emb=first.context["time"])[0]
        return read


@dataclass(frozen=True)
class _Attention:
    """The attention over picture and text, and the one over the picture alone behind it, if there is one."""

    block: Any
    kind = "attention"

    def value(self, stream: Stream) -> Tensor:
        block, time, (picture, text) = self.block, stream.context["time"], stream.hidden
        read = block.norm1(picture, emb=time)
        read_text = (
            block.norm1_context(text, time) if block.context_pre_only else block.norm1_context(text, emb=time)[0]
        )
        parts = list(block.attn(hidden_states=read[0], encoder_hidden_states=read_text))
        if block.context_pre_only:
            parts.pop()
        if block.use_dual_attention:
            parts.append(block.attn2(hidden_states=read[5]))
        return joined(parts)

    def add(self, stream: Stream, value: Tensor) -> None:
        block, time, (picture, text) = self.block, stream.context["time"], stream.hidden
        size, gates = picture.shape[1], modulation(block.norm1, time)
        added = picture + gates[2] * value[:, :size]
        if block.use_dual_attention:
            added = added + gates[8] * value[:, -size:]
        if not block.context_pre_only:
            of_text = value[:, size : size + text.shape[1]]
            text = text + modulation(block.norm1_context, time)[2] * of_text
        stream.hidden = (added, text)
