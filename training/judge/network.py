"""The judge's network: a small convolutional classifier with one head per attribute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from training.scenes.spec import ATTRIBUTE_VALUES


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(hidden)))


def _halving(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class JudgeNetwork(nn.Module):
    """Pictures [B, 3, 128, 128] in [0, 1] to logits per attribute, each [B, values]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _halving(3, 32),
            _Residual(32),
            _halving(32, 64),
            _Residual(64),
            _halving(64, 112),
            _Residual(112),
            _halving(112, 112),
            nn.Conv2d(112, 40, 1, bias=False),
            nn.BatchNorm2d(40),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(40 * 8 * 8, 256)
        self.heads = nn.ModuleList(nn.Linear(256, len(v)) for v in ATTRIBUTE_VALUES.values())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Logits per attribute, in the order of ``ATTRIBUTE_VALUES``."""
        features = self.body(images * 2 - 1).flatten(1)
        hidden = F.relu(self.hidden(F.dropout(features, 0.1, self.training)))
        return [head(hidden) for head in self.heads]
