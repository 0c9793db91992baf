"""Muon for matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly, by a quintic Newton-Schulz iteration.

    Args:
        matrix: [..., rows, columns].
        steps: iterations; five bring all singular values near one.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = (x.mT if tall else x).to(matrix.dtype)
    return result


class Muon(Optimizer):
    """Momentum whose every update is orthogonalised (Jordan et al., 2024, "Muon").

    Convolution kernels count as matrices of shape [out, in * height * width].
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; ``closure`` is not supported and ignored."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: torch.Tensor, grad: torch.Tensor, group: dict[str, float]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        buffer = state["momentum"].lerp_(grad, 1 - group["momentum"])
        nesterov = grad.lerp(buffer, group["momentum"])
        update = orthogonalise(nesterov.reshape(len(weight), -1))
        scale = max(1.0, update.size(0) / update.size(1)) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * scale)


class Optimisers:
    """Muon on a model's inner matrices and AdamW on embeddings, biases, norms, first and last layers."""

    def __init__(
        self,
        model: nn.Module,
        muon_lr: float,
        adam_lr: float,
        adam_only: tuple[str, ...] = (),
        weight_decay: float = 0.0,
    ) -> None:
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            inner = weight.ndim >= 2 and not any(part in name for part in adam_only)
            (matrices if inner else rest).append(weight)
        self._parts: list[tuple[Optimizer, float]] = [
            (Muon(matrices, lr=muon_lr, weight_decay=weight_decay), muon_lr),
            (AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0), adam_lr),
        ]

    def step(self, share: float) -> None:
        """Step with all learning rates scaled by ``share``, then clear the gradients."""
        for optimiser, peak in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = peak * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """The state of both optimisers, for a checkpoint."""
        return [optimiser.state_dict() for optimiser, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Restore what ``state_dict`` returned."""
        for (optimiser, _), state in zip(self._parts, states, strict=True):
            optimiser.load_state_dict(state)
