"""Weights of the denoiser as 8-bit integers: a quarter of float32's memory, half of a 16-bit type's.

Only the weights: symmetric, one scale per output channel (Krishnamoorthi 2018, arXiv 1806.08342), turned back into
numbers where a layer runs. Activations stay what they are, so a row's result depends on no other row of its batch,
and no range of theirs has to be known beforehand. The first and last layers and what embeds time, text or place
outside the repeated blocks keep their weights.
"""

from abc import abstractmethod
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quantise = Literal["none", "int8"]
QUANTISE: tuple[Quantise, ...] = get_args(Quantise)
LEVELS = 127
# Where diffusers' denoisers keep their repeated blocks; what lies outside comes first or last, or embeds.
BLOCKS = ("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "single_transformer_blocks")
TIME = "time_emb_proj"
_SMALLEST = 1e-12


class QuantisedLayer(nn.Module):
    """A layer whose weight is kept as integers; in its place, it computes the same but for their rounding.

    Args:
        weight: float [out, ...].
        bias: [out], or None.
        dtype: what the layer computes in.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        codes, scale = coded(weight.detach(), dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight its codes stand for, made anew."""
        return self.codes.to(self.scale.dtype).mul_(self.scale)

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """Return what the layer makes of its input."""


class QuantisedLinear(QuantisedLayer):
    """In place of `nn.Linear`."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(layer.weight, layer.bias, dtype)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, hidden: Tensor) -> Tensor:
        """Return hidden [..., in] times the weight, plus the bias, [..., out]."""
        return F.linear(hidden, self.weight, self.bias)


class QuantisedConv2d(QuantisedLayer):
    """In place of `nn.Conv2d` that pads with zeros."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(layer.weight, layer.bias, dtype)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size = layer.kernel_size
        self._layer = partial(
            F.conv2d,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the convolution of hidden [B, in, h, w]."""
        return self._layer(hidden, self.weight, self.bias)


def coded(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return integers [out, ...] in -127 ... 127 and scales [out, 1, ...] in `dtype` whose product is the weight.

    The integers are chosen for the scale as `dtype` rounds it, so that its rounding adds no error of its own.
    """
    exact = weight.float()
    largest = exact.abs().amax(dim=tuple(range(1, exact.dim())), keepdim=True)
    # Half precision reaches down to 6e-8 only, and a channel of zeros needs some scale.
    smallest = max(_SMALLEST, torch.finfo(dtype).tiny * torch.finfo(dtype).eps)
    scale = (largest / LEVELS).to(dtype).clamp_min(smallest)
    codes = (exact / scale.float()).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
    return codes, scale


def quantise_blocks(denoiser: nn.Module, dtype: torch.dtype) -> int:
    """Replace the linear and convolution layers in a denoiser's blocks, one by one, in place.

    Args:
        denoiser: diffusers' model; layers it uses as they are, of exactly these classes, are replaced.
        dtype: what it computes in.

    Returns:
        How many layers were replaced.
    """
    # Only their names: a layer's float weights go as soon as it is replaced.
    paths = [
        path
        for path, layer in denoiser.named_modules()
        if path.partition(".")[0] in BLOCKS and TIME not in path and _fits(layer)
    ]
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(denoiser.get_submodule(parent), name, _quantised(denoiser.get_submodule(path), dtype))
    return len(paths)


def _quantised(layer: Any, dtype: torch.dtype) -> nn.Module:
    made: QuantisedLayer = (
        QuantisedLinear(layer, dtype) if isinstance(layer, nn.Linear) else QuantisedConv2d(layer, dtype)
    )
    return made.train(layer.training)


def _fits(layer: nn.Module) -> bool:
    # A subclass may be read in other ways than by being called.
    return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
