"""Forms the tensors that are not computed, for several rows at once: weighted sums of what each row remembers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.features.base import CacheLayer, ChannelCorrection, Moment
from service.engine.features.run import FeatureRun, Key, Remembered


@dataclass(frozen=True, slots=True)
class Missing:
    """One row's tensor that was not computed.

    Attributes:
        run: of the row's job.
        layer: of the recipe.
        key: under what its history is remembered.
    """

    run: FeatureRun
    layer: CacheLayer
    key: Key

    @property
    def history(self) -> Sequence[Remembered]:
        """What is remembered, newest first."""
        return self.run.history(self.layer.site, self.key)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each remembered tensor."""
        past = [item.moment for item in self.history]
        return self.layer.predictor.weights(self._moment, past, self.run.context.steps)

    @property
    def correction(self) -> ChannelCorrection | None:
        """Correction per channel."""
        anchor = self.history[0].moment
        return self.layer.predictor.channels(self._moment, anchor, self.run.context.steps)

    @property
    def _moment(self) -> Moment:
        return Moment(self.run.context.step, self.run.context.log_snr)


def predict_missing(missing: Sequence[Missing], channel_axis: int) -> Tensor:
    """Return the tensors of rows that were not computed, [R, ...].

    Extrapolation works in float32: its weights cancel, and 16-bit rounding would be amplified.

    Args:
        missing: the rows; all tensors have one shape and number type.
        channel_axis: where a batch of them has its channels.
    """
    histories = [row.history for row in missing]
    weights = [row.weights for row in missing]
    total = torch.stack([entries[0].value for entries in histories])
    if any(row != (1.0,) for row in weights):
        total = _weighted(histories, weights).to(total.dtype)
    corrections = [row.correction for row in missing]
    if any(correction is not None for correction in corrections):
        total = _corrected(total, corrections, channel_axis)
    return total


def _weighted(histories: Sequence[Sequence[Remembered]], weights: Sequence[tuple[float, ...]]) -> Tensor:
    shape = histories[0][0].value
    total = torch.zeros((), device=shape.device)
    for age in range(max(len(row) for row in weights)):
        # A row with a shorter history weighs its newest tensor with zero.
        values = [
            entries[age if age < len(row) else 0].value for entries, row in zip(histories, weights, strict=True)
        ]
        factors = [row[age] if age < len(row) else 0.0 for row in weights]
        total = total + torch.stack(values).float() * _column(factors, shape)
    return total


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=like.device).view(-1, *[1] * like.dim())


def _corrected(total: Tensor, corrections: Sequence[ChannelCorrection | None], axis: int) -> Tensor:
    channels = total.shape[axis]
    plain = ChannelCorrection((1.0,) * channels, (0.0,) * channels)
    shape = [1] * total.dim()
    shape[0], shape[axis] = len(total), channels
    rows = [correction or plain for correction in corrections]
    scale = total.new_tensor([row.scale for row in rows]).view(shape)
    offset = total.new_tensor([row.offset for row in rows]).view(shape)
    return total * scale + offset
