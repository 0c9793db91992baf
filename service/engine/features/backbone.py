"""A denoiser as a row of layers that any subset of a joint batch's rows may walk through.

diffusers' own modules do the work; only the order in which they are called is ours. Nothing is patched: a denoiser
that has a backbone can still be called as a whole, with the very same result.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from policies.features.base import BlockStack, Indicator, UNetSkip
from service.engine.features.wiener import filtered

Inputs = Mapping[str, Any]
"""Keyword arguments of the denoiser's own forward, as the family passes them; tensors of rows have the batch first.

One more may be there: `NOISE_SHARE`, which only the indicator "filtered" looks at.
"""
NOISE_SHARE = "noise_share"
"""sigma / (alpha + sigma) of each row, float32 [R]: in rectified flow the noise level itself."""
PLAIN = frozenset({NOISE_SHARE, "return_dict"})


class UnsupportedSite(Exception):
    """The model has no such site; the message is one clear line."""


@dataclass
class Stream:
    """What flows through the layers for some of the rows.

    Attributes:
        hidden: what the layers change, one tensor [R, ...] or several (picture and text tokens).
        context: what they read besides, per row: every tensor [R, ...]. "time" is the embedding of the time value,
            with whatever the model adds to it, that modulates the layers.
        shared: what they read besides and is the same for all rows.
        skips: what a UNet's down layers leave for its up layers, [R, ...] each, deepest last.
    """

    hidden: tuple[Tensor, ...]
    context: dict[str, Tensor]
    shared: dict[str, Any] = field(default_factory=dict)
    skips: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.hidden[0])

    def take(self, rows: Tensor) -> "Stream":
        """Return the stream of some rows, without skips."""
        return Stream(
            tuple(tensor[rows] for tensor in self.hidden),
            {name: tensor[rows] for name, tensor in self.context.items()},
            self.shared,
        )


class SubLayerCall(Protocol):
    """One sub-layer of a block: what it computes, and how that enters the hidden states."""

    kind: str

    def value(self, stream: Stream) -> Tensor:
        """Return what is cached, [R, ...]."""

    def add(self, stream: Stream, value: Tensor) -> None:
        """Put a value, computed now or remembered, into `stream.hidden`."""


class Backbone(ABC):
    """One architecture's denoiser, taken apart.

    `leave(walk all layers(enter(inputs)))` equals the denoiser's own forward bit for bit.

    Attributes:
        layers: how many there are.
        kinds: kinds of sub-layers its blocks have, () if they cannot be taken apart.
        channel_axis: where a batch of features has its channels.
        adds: a span's feature is what it adds to the hidden states before it; else it replaces them, and they need
            not be kept.
    """

    layers: int
    kinds: tuple[str, ...] = ()
    channel_axis: int = -1
    adds: bool = True

    @abstractmethod
    def enter(self, inputs: Inputs) -> Stream:
        """Embed the inputs: everything before the first layer."""

    @abstractmethod
    def layer(self, index: int, stream: Stream) -> None:
        """Run one layer on all rows of a stream, in place."""

    @abstractmethod
    def leave(self, stream: Stream) -> Tensor:
        """Return the denoiser's output for all rows: everything after the last layer."""

    @abstractmethod
    def span(self, site: UNetSkip | BlockStack) -> tuple[int, int]:
        """Return the first layer a site saves, and the one after the last.

        Raises:
            UnsupportedSite: this model has no such site.
        """

    @abstractmethod
    def feature(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """Return what is remembered of a span, [R, ...], of the hidden states before and after it."""

    @abstractmethod
    def restore(self, before: Sequence[Tensor], feature: Tensor) -> tuple[Tensor, ...]:
        """Return the hidden states after a span that was not walked, of those before it and a remembered feature."""

    def sublayers(self, index: int) -> tuple[SubLayerCall, ...]:
        """Return a layer taken apart: computing and adding each in turn equals `layer`, bit for bit."""
        return ()

    def indicator(self, kind: Indicator, first: Stream, now: Stream) -> Tensor:
        """Return what a probing policy looks at, [R, ...].

        Args:
            kind: what to look at.
            first: the stream before the first layer; only its tensors that no layer changes in place are read.
            now: the stream at the first layer of the site's span.

        Raises:
            UnsupportedSite: this model has no such indicator, or the noise share it needs was not among the inputs.
        """
        if kind == "entry":
            return now.hidden[0]
        if kind == "increment":
            return _increment(first.hidden[0], now.hidden[0])
        if kind == "timestep":
            return first.context["time"]
        if kind == "modulated-input":
            return self.modulated(first)
        if NOISE_SHARE not in first.context:
            raise UnsupportedSite(f"the indicator {kind!r} needs {NOISE_SHARE!r} among the denoiser's inputs")
        return filtered(self.grid(first), first.context[NOISE_SHARE])

    def modulated(self, first: Stream) -> Tensor:
        """Return what the first layer's attention reads of the picture, [R, ...].

        Raises:
            UnsupportedSite: this model's first layer does not modulate its input.
        """
        raise UnsupportedSite("this model's first layer does not modulate its input by the time")

    @abstractmethod
    def grid(self, first: Stream) -> Tensor:
        """Return what the first layer reads of the picture, laid out as one, [R, C, h, w]."""


def context_of(inputs: Inputs, known: frozenset[str], **context: Tensor) -> dict[str, Tensor]:
    """Return a stream's context, with the noise share where there is one.

    Args:
        inputs: of the denoiser.
        known: names of those its backbone understands.
        context: the tensors of rows.

    Raises:
        UnsupportedSite: there is another input, such as a ControlNet's.
    """
    strange = [name for name, value in inputs.items() if name not in known | PLAIN and value is not None]
    if strange:
        raise UnsupportedSite(f"feature caching does not know the denoiser's input {strange[0]!r}")
    return {**context, NOISE_SHARE: inputs[NOISE_SHARE]} if NOISE_SHARE in inputs else context


def _increment(first: Tensor, now: Tensor) -> Tensor:
    if first.shape != now.shape:
        raise UnsupportedSite("the layers before this site change the picture's size: they add nothing to look at")
    return now - first


def walk(backbone: Backbone, inputs: Inputs) -> Tensor:
    """Run a denoiser layer by layer, all rows through all of them: what its own forward returns."""
    stream = backbone.enter(inputs)
    for index in range(backbone.layers):
        backbone.layer(index, stream)
    return backbone.leave(stream)


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """Return mean |now - before| / mean |before| per row, float32 [R]; infinite where `before` is all zeros."""
    difference = (now.float() - before.float()).abs().flatten(1).mean(1)
    size = before.float().abs().flatten(1).mean(1)
    return torch.where(size > 0, difference / size, torch.full_like(size, torch.inf).where(difference > 0, size))
