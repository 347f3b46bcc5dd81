"""Frozen linear layers in 8 bit: a third of SDXL's memory for a few percent of its speed.

Weights alone are rounded, one scale per output channel; numbers are computed in the model's own
type. The backward pass needs the weight again, and makes it again instead of keeping it. That is
why this is not torchao's weight-only quantization (0.18): it rounds alike, but leaves every weight
unpacked with autograd until the backward pass, so that training would save nothing.
"""

import torch

from .errors import JobError

FORMATS = ("full", "int8", "fp8")
_LARGEST = {"int8": 127.0, "fp8": 448.0}  # of int8 and of float8_e4m3fn
_TYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


class _Rounded(torch.autograd.Function):
    """x W^T + b with W stored in 8 bit; only x gets a gradient."""

    @staticmethod
    def forward(ctx, x, weight, scale, bias):
        ctx.save_for_backward(weight, scale)
        return torch.nn.functional.linear(x, _unpack(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient):
        weight, scale = ctx.saved_tensors
        return gradient @ _unpack(weight, scale, gradient.dtype), None, None, None


def _unpack(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.to(dtype) * scale.to(dtype)


class RoundedLinear(torch.nn.Linear):
    """A frozen linear layer with an 8-bit `weight` (out, in) and a `scale` (out, 1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Rounded.apply(x, self.weight, self.scale, self.bias)


@torch.no_grad()
def round_weights(model: torch.nn.Module, kind: str) -> int:
    """Store every linear layer's weight in 8 bit, in place; returns how many.

    Args:
        kind: "int8" or "fp8".

    Raises:
        JobError: the name is unknown.
    """
    if kind not in _TYPES:
        raise JobError(f"memory.base_weights {kind!r} is unknown: choose {', '.join(FORMATS)}.")
    count = 0
    for layer in model.modules():
        if type(layer) is torch.nn.Linear:
            weight = layer.weight.float()
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / _LARGEST[kind]
            values = weight / scale
            stored = (values.round() if kind == "int8" else values).to(_TYPES[kind])
            layer.register_buffer("scale", scale, persistent=False)
            layer.weight = torch.nn.Parameter(stored, requires_grad=False)
            layer.__class__ = RoundedLinear
            count += 1
    return count
