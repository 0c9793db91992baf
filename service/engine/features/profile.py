"""What each layer of a denoiser costs and what remembering it takes, measured once per size of picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from policies.features.base import BlockStack, Indicator, Recipe, SubLayer, UNetSkip
from service.engine.features.backbone import Backbone, Inputs, Stream, SubLayerCall, UnsupportedSite


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Multiplications and additions of scaled dot-product attention, from the shapes [B, heads, tokens, width]."""
    batch, heads, queries, width = query
    keys, out = key[-2], value[-1]
    return int(2 * batch * heads * queries * keys * (width + out))


# torch counts its attention kernels on GPUs only.
KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@dataclass(frozen=True)
class Profile:
    """Cost and memory of one network row.

    Attributes:
        outside: floating-point operations before the first layer and after the last.
        layers: of each layer.
        parts: of each sub-layer, by layer.
        boundaries: bytes of the hidden states (all streams) before each layer and after the last.
        values: bytes of what each sub-layer computes, by layer; its kind beside it.
        output: bytes of the float32 output.
    """

    outside: float
    layers: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...]
    boundaries: tuple[int, ...]
    values: tuple[tuple[tuple[str, int], ...], ...]
    output: int

    @property
    def whole(self) -> float:
        """Operations of a whole forward."""
        return self.outside + sum(self.layers)

    def middle(self, kind: str) -> int | None:
        """Return the middle one of the layers that have a kind of sub-layer; None if none has.

        Not every layer has every kind: the single blocks of FLUX, most of its depth, have no feed-forward apart.
        """
        having = [index for index, parts in enumerate(self.values) if any(kind == own for own, _ in parts)]
        return having[len(having) // 2] if having else None

    def state_bytes(self, recipe: Recipe, backbone: Backbone, *, guided: bool) -> int:
        """Return what a job with a recipe remembers at most, reckoned from above."""
        rows = 1 + guided
        return sum(
            self._bytes_of(layer.site, backbone, rows) * layer.predictor.depth
            + self._bytes_of_reference(layer.policy.indicator, rows)
            for layer in recipe.layers
        )

    def _bytes_of_reference(self, indicator: Indicator | None, rows: int) -> int:
        if indicator is None:
            return 0
        # Behind the filter everything is float32, twice as wide as the 16-bit states before it.
        return rows * max(self.boundaries) * (2 if indicator == "filtered" else 1)

    def _bytes_of(self, site: object, backbone: Backbone, rows: int) -> int:
        if isinstance(site, UNetSkip | BlockStack):
            return rows * max(self.boundaries[edge] for edge in backbone.span(site)[1:])
        if isinstance(site, SubLayer):
            return rows * sum(size for layer in self.values for kind, size in layer if kind == site.kind)
        # The unconditional row's difference is kept in two bands.
        return 2 * self.output


@torch.no_grad()
def measure(backbone: Backbone, inputs: Inputs) -> Profile:
    """Run one row through a denoiser, layer by layer, and count.

    Args:
        backbone: the denoiser.
        inputs: of one row.
    """
    stream, outside = _counted(lambda: backbone.enter(inputs))
    layers, parts, boundaries, values = [], [], [_bytes(stream)], []
    for index in range(backbone.layers):
        calls = backbone.sublayers(index)
        costs, sizes = _measure_parts(calls, stream) if calls else ((), ())
        if calls:
            layers.append(sum(costs))
        else:
            layers.append(_counted(lambda index=index: backbone.layer(index, stream))[1])  # type: ignore[misc]
        parts.append(costs)
        values.append(tuple((call.kind, size) for call, size in zip(calls, sizes, strict=True)))
        boundaries.append(_bytes(stream))
    output, after = _counted(lambda: backbone.leave(stream))
    return Profile(
        outside + after,
        tuple(layers),
        tuple(parts),
        tuple(boundaries),
        tuple(values),
        4 * math.prod(output.shape),
    )


def _measure_parts(calls: tuple[SubLayerCall, ...], stream: Stream) -> tuple[tuple[float, ...], tuple[int, ...]]:
    costs, sizes = [], []
    for call in calls:
        value, cost = _counted(lambda call=call: call.value(stream))  # type: ignore[misc]
        _, adding = _counted(lambda call=call, value=value: call.add(stream, value))  # type: ignore[misc]
        costs.append(cost + adding)
        sizes.append(value.nbytes)
    return tuple(costs), tuple(sizes)


def _bytes(stream: Stream) -> int:
    return sum(tensor.nbytes for tensor in stream.hidden)


def _counted(call: Callable[[], Any]) -> tuple[Any, float]:
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        made = call()
    return made, float(counter.get_total_flops())


def unfit(recipe: Recipe, backbone: Backbone) -> str | None:
    """Return why a denoiser cannot run a recipe, in one line; None if it can."""
    for layer in recipe.layers:
        if isinstance(layer.site, SubLayer) and layer.site.kind not in backbone.kinds:
            return f"this model has no sub-layers of kind {layer.site.kind!r}"
        if isinstance(layer.site, UNetSkip | BlockStack):
            try:
                backbone.span(layer.site)
            except UnsupportedSite as error:
                return str(error)
    return None
