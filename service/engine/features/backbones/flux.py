"""FluxTransformer2DModel of FLUX.1, block by block and sub-layer by sub-layer."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor

from service.engine.features.backbone import Inputs, Stream, SubLayerCall, UnsupportedSite, context_of
from service.engine.features.backbones.stack import JointFeedForward, Stack, finite, joined, modulation, parted

INPUTS = frozenset(
    {
        "hidden_states",
        "timestep",
        "guidance",
        "pooled_projections",
        "encoder_hidden_states",
        "txt_ids",
        "img_ids",
    }
)


class FluxBackbone(Stack):
    """FLUX's double blocks (picture and text apart), then its single ones (together), as one row of layers.

    Args:
        transformer: diffusers' model.

    Raises:
        UnsupportedSite: it has blocks of another kind, or lacks one of the two kinds.
    """

    kinds = ("attention", "feed-forward")

    def __init__(self, transformer: Any) -> None:
        doubles, singles = list(transformer.transformer_blocks), list(transformer.single_transformer_blocks)
        kinds = [(doubles, FluxTransformerBlock), (singles, FluxSingleTransformerBlock)]
        strange = [type(block).__name__ for blocks, kind in kinds for block in blocks if type(block) is not kind]
        if strange:
            raise UnsupportedSite(f"feature caching does not know the transformer's block {strange[0]}")
        if not doubles or not singles:
            raise UnsupportedSite("feature caching knows FLUX only with blocks of both kinds")
        self._model = transformer
        self._blocks = [*doubles, *singles]
        self._doubles = len(doubles)
        self.layers = len(self._blocks)

    def enter(self, inputs: Inputs) -> Stream:
        """Embed latents, time, guidance, pooled text, text and places."""
        model = self._model
        picture = model.x_embedder(inputs["hidden_states"])
        times = [inputs[name] for name in ("timestep", "guidance") if inputs.get(name) is not None]
        time = model.time_text_embed(*(each.to(picture.dtype) * 1000 for each in times), inputs["pooled_projections"])
        text = model.context_embedder(inputs["encoder_hidden_states"])
        places = inputs["img_ids"]
        rotation = model.pos_embed(torch.cat((inputs["txt_ids"], places)))
        return Stream(
            (picture, text), context_of(inputs, INPUTS, time=time), {"rotation": rotation, "places": places}
        )

    def layer(self, index: int, stream: Stream) -> None:
        """Run one block."""
        picture, text = stream.hidden
        text, picture = self._blocks[index](
            hidden_states=picture,
            encoder_hidden_states=text,
            temb=stream.context["time"],
            image_rotary_emb=stream.shared["rotation"],
        )
        stream.hidden = (picture,) if index == self.layers - 1 else (picture, text)

    def leave(self, stream: Stream) -> Tensor:
        """Normalise and project the picture's tokens."""
        model = self._model
        output: Tensor = model.proj_out(model.norm_out(stream.hidden[0], stream.context["time"]))
        return output

    def sublayers(self, index: int) -> tuple[SubLayerCall, ...]:
        """Return attention and feed-forward of a double block; a single one computes both in one go."""
        block = self._blocks[index]
        if index >= self._doubles:
            return (_Fused(block, text=index < self.layers - 1),)
        return (_Attention(block), JointFeedForward(block, clipped=True))

    def modulated(self, first: Stream) -> Tensor:
        """Return what the first block's attention reads of the picture."""
        read: Tensor = self._blocks[0].norm1(first.hidden[0], emb=first.context["time"])[0]
        return read

    def size(self, first: Stream) -> tuple[int, int]:
        """Return the rows and columns of picture tokens: the last one's place says it."""
        _, row, column = first.shared["places"][-1].tolist()
        return int(row) + 1, int(column) + 1


@dataclass(frozen=True)
class _Attention:
    block: Any
    kind = "attention"

    def value(self, stream: Stream) -> Tensor:
        block, time, (picture, text) = self.block, stream.context["time"], stream.hidden
        return joined(
            block.attn(
                hidden_states=block.norm1(picture, emb=time)[0],
                encoder_hidden_states=block.norm1_context(text, emb=time)[0],
                image_rotary_emb=stream.shared["rotation"],
            )
        )

    def add(self, stream: Stream, value: Tensor) -> None:
        norms, time = (self.block.norm1, self.block.norm1_context), stream.context["time"]
        parts = zip(stream.hidden, norms, parted(value, stream.hidden), strict=True)
        stream.hidden = tuple(tokens + modulation(norm, time)[2] * part for tokens, norm, part in parts)


@dataclass(frozen=True)
class _Fused:
    """Attention and feed-forward of a single block, before their one gate."""

    block: Any
    text: bool
    kind = "attention"

    def value(self, stream: Stream) -> Tensor:
        block, (picture, text) = self.block, stream.hidden
        read = block.norm(torch.cat([text, picture], dim=1), emb=stream.context["time"])[0]
        attended = block.attn(hidden_states=read, image_rotary_emb=stream.shared["rotation"])
        output: Tensor = block.proj_out(torch.cat([attended, block.act_mlp(block.proj_mlp(read))], dim=2))
        length = text.shape[1]
        return joined([output[:, length:], output[:, :length]]) if self.text else output[:, length:]

    def add(self, stream: Stream, value: Tensor) -> None:
        gate = modulation(self.block.norm, stream.context["time"])[2]
        parts = zip(stream.hidden, parted(value, stream.hidden), strict=False)
        stream.hidden = tuple(finite(tokens + gate * part) for tokens, part in parts)
