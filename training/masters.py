"""Adapter layers as PEFT builds them, with float32 weights that compute in the model's own type.

PEFT casts a layer's input to the adapter's type instead, which doubles the activations of a bf16
model. The classes here are put on layers that PEFT made; the dropouts PEFT lacks are here too.
"""

from functools import cache
from typing import Any

import torch
from torch.nn import functional

ADAPTER = "default"  # PEFT's name for the one adapter there is


class _Master:
    """Common to both: float32 weight, the input's type, rank and module dropout.

    Rank dropout leaves out single ranks per picture, module dropout the whole layer, and both
    scale up what stays, except that a dropped layer is not made up for (as sd-scripts).
    """

    rank_dropout = 0.0
    module_dropout = 0.0

    def _dropped(self, out: torch.Tensor, rank_axis: int) -> torch.Tensor:
        if not self.training or not (self.rank_dropout or self.module_dropout):
            return out
        shape = [1] * out.ndim
        shape[0], shape[rank_axis] = out.shape[0], out.shape[rank_axis]
        # drawn on the CPU, whose generator the loop seeds in every step
        keep = (torch.rand(shape) >= self.rank_dropout).float() / (1.0 - self.rank_dropout)
        if torch.rand(1) < self.module_dropout:
            keep = torch.zeros(shape)
        return out * keep.to(out)


class MasterLinear(_Master, torch.nn.Linear):
    """A bias-free linear layer with float32 weights that computes in its input's type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._dropped(functional.linear(x, self.weight.to(x.dtype)), -1)


class MasterConv2d(_Master, torch.nn.Conv2d):
    """The same as a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._dropped(self._conv_forward(x, self.weight.to(x.dtype), None), 1)


def make_master(layer: torch.nn.Module) -> None:
    """Turn a linear layer or convolution into one with float32 weights."""
    layer.__class__ = MasterLinear if isinstance(layer, torch.nn.Linear) else MasterConv2d
    layer.to(torch.float32)


def apply_weight(
    base: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What `base` computes, with another weight: a linear layer or a convolution."""
    if isinstance(base, torch.nn.Linear):
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, base.stride, base.padding, base.dilation, base.groups)


@cache
def with_dense_master(layer_class: type) -> type:
    """A subclass of PEFT's LoHa or LoKr layer with float32 weights and our dropouts.

    These kinds write their change of the weight out, in float32, and apply it in the input's type.
    """

    class Master(layer_class):
        input_dropout = 0.0
        row_dropout = 0.0

        def _get_delta_activations(
            self, adapter_name: str, input: torch.Tensor, *_: Any, **__: Any
        ) -> torch.Tensor:
            delta = self.get_delta_weight(adapter_name)
            if self.training and self.row_dropout:
                keep = torch.rand(len(delta)) >= self.row_dropout
                keep = keep.float().view(-1, *[1] * (delta.ndim - 1)) / (1.0 - self.row_dropout)
                delta = delta * keep.to(delta)
            if self.input_dropout:
                input = functional.dropout(input, self.input_dropout, self.training)
            return apply_weight(self.get_base_layer(), input, delta.to(input.dtype))

    Master.__name__ = Master.__qualname__ = f"Master{layer_class.__name__}"
    return Master


# ----------------------------------------------------------------------- variants of LoRA


class Magnitudes(torch.nn.Module):
    """DoRA's trained lengths of the weight's columns: one per input channel, float32."""

    def __init__(self, lengths: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(lengths)


def column_lengths(weight: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each column of a (out, in, ...) weight, shape (in,), float32."""
    return weight.float().transpose(0, 1).flatten(1).norm(dim=1)


class Dora:
    """Weight-decomposed LoRA: W' = m (W + BA) / |W + BA| per column (arXiv 2402.09353, eq. 5).

    PEFT normalises rows instead of the paper's columns. ComfyUI divides rows by |W| and columns by
    |W + BA|, so only the paper's form is loaded as it was trained. The norm gets no gradient
    (section 4.3). Used through PEFT's `lora_variant`.
    """

    @staticmethod
    def forward(module, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any):
        base = module.get_base_layer()
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        scale = module.scaling[active_adapter]
        with torch.no_grad():
            change = (up.weight.flatten(1) @ down.weight.flatten(1)).view(base.weight.shape)
            lengths = column_lengths(base.weight.float() + scale * change)
        gain = module.lora_magnitude_vector[active_adapter].weight / lengths
        gain = gain.view(1, -1, 1, 1) if x.ndim == 4 else gain
        x = module.lora_dropout[active_adapter](x)
        # W'x = Wx + W(g - 1)x + BAgx: the middle term is exactly zero before the first step
        extra = apply_weight(base, x * (gain - 1.0).to(x.dtype), base.weight.to(x.dtype))
        return result + extra + up(down(x * gain.to(x.dtype))) * scale


class Pissa:
    """LoRA that starts from the weight's main directions (arXiv 2404.02948, section 3).

    The paper freezes W - B0 A0 and trains BA from B0 A0 on. Here W stays as it is and the frozen
    B0 A0 is subtracted beside it: the same numbers, but W can be shown without the adapter.
    """

    @staticmethod
    def forward(module, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any):
        # contiguous: otherwise torch multiplies by weights that learn in another order than by
        # fixed ones, and the two do not cancel to the last bit
        x = module.lora_dropout[active_adapter](x).contiguous()
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        start = apply_weight(down, x, module.pissa_down.to(x.dtype))
        start = apply_weight(up, start, module.pissa_up.to(x.dtype))
        return result + (up(down(x)) - start) * module.scaling[active_adapter]


# ------------------------------------------------------------------------------------- OFT


class OutputRotation(torch.nn.Module):
    """A frozen layer whose output channels are turned, block by block, by a trained rotation.

    y' = R y for y without bias, R = (1 + Q)(1 - Q)^-1 with Q = P - P^T: orthogonal fine-tuning
    (arXiv 2306.07280, eq. 6) as LyCORIS and ComfyUI read it (`oft_blocks` = P). PEFT turns the
    inputs, which no ComfyUI file can say without holding whole weights.

    Args:
        blocks: P, (number, size, size) float32, number x size = output channels.
    """

    def __init__(self, base_layer: torch.nn.Module, blocks: torch.Tensor):
        super().__init__()
        self.base_layer = base_layer
        self.oft_blocks = torch.nn.Parameter(blocks)
        self.module_dropout = 0.0
        self._enabled = True

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base_layer.bias

    def get_base_layer(self) -> torch.nn.Module:
        return self.base_layer

    def enable_adapters(self, enabled: bool) -> None:
        self._enabled = enabled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._enabled:
            return self.base_layer(x)
        number, size, _ = self.oft_blocks.shape
        turn = rotation(self.oft_blocks) - torch.eye(size, device=x.device)
        if self.training and self.module_dropout:
            keep = torch.rand(number, 1, 1) >= self.module_dropout
            turn = turn * keep.to(turn)
        result = self.base_layer(x)
        axis = 1 if isinstance(self.base_layer, torch.nn.Conv2d) else -1
        plain = result
        if self.bias is not None:
            plain = result - self.bias.view(-1, *[1] * (2 if axis == 1 else 0))
        blocks = plain.movedim(axis, -1).unflatten(-1, (number, size))
        change = torch.einsum("...kn,knm->...km", blocks, turn.to(x.dtype))
        return result + change.flatten(-2).movedim(-1, axis)


def rotation(blocks: torch.Tensor) -> torch.Tensor:
    """The rotations (K, n, n) of LyCORIS' `oft_blocks`: Cayley transform of P - P^T."""
    skew = blocks - blocks.transpose(1, 2)
    one = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    # X (1 - Q) = 1 + Q, and both factors commute
    return torch.linalg.solve(one - skew, one + skew, left=False)
