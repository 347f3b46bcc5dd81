"""Our stacked Muon against torch's, which goes from matrix to matrix."""

import pytest
import torch
from torch import nn

from demo.train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (32, 16, 3, 3)])
def test_steps_are_those_of_torch(shape):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone().reshape(len(p), -1)) for p in ours]
    stacked = Muon(ours, weight_decay=0.01)
    single = torch.optim.Muon(theirs, 1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(shape)
            other.grad = mine.grad.reshape(other.shape).clone()
        stacked.step(1e-3)
        single.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.reshape(other.shape), other, atol=1e-5)


def test_singular_values_come_near_one():
    torch.manual_seed(1)
    update = orthogonal(torch.randn(2, 24, 48) * torch.tensor([0.01, 100.0])[:, None, None])
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.6 and values.max() < 1.3
