"""Muon (K. Jordan 2024, "Muon: an optimizer for hidden layers"), all matrices of a shape at once.

torch.optim.Muon goes from matrix to matrix, which takes longer where there are hundreds of small
ones. Same rule, defaults and numbers: Nesterov momentum, five Newton-Schulz steps in bfloat16,
decoupled weight decay, and steps as large as AdamW's (Liu et al. 2025, arXiv 2502.16982, section
2.2), so that one learning rate serves both.
"""

import math
from collections import defaultdict

import torch
from torch import nn

MOMENTUM = 0.95
A, B, C = 3.4445, -4.7750, 2.0315  # coefficients of the quintic iteration
STEPS = 5
ADAMW_RMS = 0.2


class Muon:
    """Moves matrices, and kernels as (out, in * height * width)."""

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float):
        self.weight_decay = weight_decay
        self._groups: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self._groups[len(parameter), parameter.numel() // len(parameter)].append(parameter)
        self._momentum = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients, which are forgotten."""
        for shape, group in self._groups.items():
            gradients = torch.stack([p.grad.reshape(shape) for p in group])
            momentum = self._momentum[shape]
            momentum.lerp_(gradients, 1 - MOMENTUM)
            update = orthogonal(gradients.lerp_(momentum, MOMENTUM))
            size = rate * ADAMW_RMS * math.sqrt(max(shape))
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self.weight_decay)
                parameter.sub_(change.view(parameter.shape), alpha=size)
                parameter.grad = None

    def state_dict(self) -> list[torch.Tensor]:
        return list(self._momentum.values())

    def load_state_dict(self, state: list[torch.Tensor]) -> None:
        for mine, saved in zip(self._momentum.values(), state, strict=True):
            mine.copy_(saved)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest matrices (K, M, N) with singular values near 1, float32."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if tall else x).float()
