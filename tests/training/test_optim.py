from __future__ import annotations

import torch
from torch import nn

from training.optim import Muon, Optimisers, orthogonalise


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((12, 30), (30, 12)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(8, 8), nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=0.05)
    losses = []
    for _ in range(150):
        loss = (weight - wanted).square().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_state_survives_a_round_trip() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    first = Optimisers(model, 0.01, 0.001)
    torch.autograd.backward(model(torch.randn(3, 4)).sum())
    first.step(1.0)
    second = Optimisers(model, 0.01, 0.001)
    second.load_state_dict(first.state_dict())
    assert len(second.state_dict()[0]["state"]) == 1
