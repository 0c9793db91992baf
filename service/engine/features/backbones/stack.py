"""What the transformers share: a stack of blocks whose picture tokens, and perhaps text tokens, only ever grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.features.base import BlockStack, UNetSkip
from service.engine.features.backbone import Backbone, Stream, UnsupportedSite


class Stack(Backbone):
    """A stack of blocks over hidden states (picture,) or (picture, text), tokens [R, L, D] each.

    What is remembered of a span is what its blocks added to the tokens: to the picture's and, where the text's are
    still read afterwards, to these behind them. The last block leaves no text tokens.
    """

    def span(self, site: UNetSkip | BlockStack) -> tuple[int, int]:
        """Return the blocks between the first and the last ones."""
        if not isinstance(site, BlockStack):
            raise UnsupportedSite("a transformer has no skip connections to cut at; its site is the stack of blocks")
        if site.first < 0 or site.last < 0 or site.first + site.last >= self.layers:
            raise UnsupportedSite(
                f"of {self.layers} blocks at least one must lie between the first and the last ones"
            )
        return site.first, self.layers - site.last

    def feature(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return what the blocks added."""
        return joined([late - early for early, late in zip(before, after, strict=False)])

    def restore(self, before: Sequence[Tensor], feature: Tensor) -> tuple[Tensor, ...]:
        """Add what the blocks added when they were last run."""
        return tuple(early + added for early, added in zip(before, parted(feature, before), strict=False))

    def grid(self, first: Stream) -> Tensor:
        """Return the picture's tokens in their places."""
        height, width = self.size(first)
        tokens = first.hidden[0]
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)

    def size(self, first: Stream) -> tuple[int, int]:
        """Return the rows and columns of picture tokens."""
        height, width = first.shared["size"]
        return height, width


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tokens of several streams as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def parted(tokens: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return joined tokens as streams of the lengths of others, as many as there are."""
    parts = []
    for part in like:
        if tokens.shape[1] == 0:
            break
        parts.append(tokens[:, : part.shape[1]])
        tokens = tokens[:, part.shape[1] :]
    return parts


def modulation(norm: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Return what one of diffusers' adaptive normalisations makes of the time: [R, 1, D] each.

    Shift, scale and gate of the attention, then of the feed-forward, then of a second attention: as many as it has.
    """
    return tuple(part[:, None] for part in norm.linear(norm.silu(time)).split(time.shape[1], dim=1))


def unpatched(tokens: Tensor, size: tuple[int, int], patch: int, channels: int) -> Tensor:
    """Turn tokens [R, h * w, patch * patch * C] into latents [R, C, h * patch, w * patch]."""
    (height, width), rows = size, len(tokens)
    cells = torch.einsum("nhwpqc->nchpwq", tokens.reshape(rows, height, width, patch, patch, channels))
    return cells.reshape(rows, channels, height * patch, width * patch)


@dataclass(frozen=True)
class JointFeedForward:
    """The two feed-forwards of a block that keeps picture and text apart, before their gates.

    Attributes:
        block: diffusers' block.
        text: whether it has one for the text; without, no text tokens are left.
        clipped: text tokens in float16 are kept finite.
    """

    block: Any
    text: bool = True
    clipped: bool = False
    kind = "feed-forward"

    def value(self, stream: Stream) -> Tensor:
        """Return what the feed-forwards compute."""
        block, time = self.block, stream.context["time"]
        parts = [(block.norm1, block.norm2, block.ff)]
        if self.text:
            parts.append((block.norm1_context, block.norm2_context, block.ff_context))
        return joined(
            [
                _fed(modulation(first, time), norm, feed, tokens)
                for (first, norm, feed), tokens in zip(parts, stream.hidden, strict=False)
            ]
        )

    def add(self, stream: Stream, value: Tensor) -> None:
        """Add it through the gates of now."""
        block, time = self.block, stream.context["time"]
        parts = parted(value, stream.hidden)
        picture = stream.hidden[0] + modulation(block.norm1, time)[5] * parts[0]
        if not self.text:
            stream.hidden = (picture,)
            return
        text = stream.hidden[1] + modulation(block.norm1_context, time)[5] * parts[1]
        stream.hidden = (picture, finite(text) if self.clipped else text)


def _fed(modulated: tuple[Tensor, ...], norm: Any, feed: Any, tokens: Tensor) -> Tensor:
    fed: Tensor = feed(norm(tokens) * (1 + modulated[4]) + modulated[3])
    return fed


def finite(tokens: Tensor) -> Tensor:
    """Return tokens within the range of float16, if they are such."""
    return tokens.clip(-65504, 65504) if tokens.dtype == torch.float16 else tokens
