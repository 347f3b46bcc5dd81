"""LoRA layers in fewer kernels: the same numbers, up to the order in which they are added.

PEFT computes a layer's adapter as three tensors of the layer's full output size: the product with
`up`, that product scaled, and the sum. Here the last matrix product adds into the layer's output.
A third of a small model's time between the big products goes there, and some of the memory.
"""

import torch
from torch.nn import functional

from .masters import ADAPTER, MasterLinear


class FusedForward:
    """Mixed into PEFT's linear LoRA layers that have neither dropout nor DoRA."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        down, up = self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        rows = x.reshape(-1, x.shape[-1])
        out = self.base_layer(rows)
        low = functional.linear(rows, down.weight.to(x.dtype))
        # in place: nothing needs what a linear layer gave for the backward pass
        out = out.addmm_(low, up.weight.to(x.dtype).t(), alpha=self.scaling[ADAPTER])
        return out.view(*x.shape[:-1], out.shape[-1])


def fuse(layer: torch.nn.Module) -> bool:
    """Make a layer compute in fewer kernels if it can; says whether it does."""
    from peft.tuners.lora.layer import Linear

    if type(layer) is not Linear or not _is_plain(layer):
        return False
    layer.__class__ = _fused(Linear)
    return True


_classes: dict[type, type] = {}


def _fused(kind: type) -> type:
    if kind not in _classes:
        _classes[kind] = type(f"Fused{kind.__name__}", (FusedForward, kind), {})
    return _classes[kind]


def _is_plain(layer: torch.nn.Module) -> bool:
    """No dropout of any sort, no DoRA, and matrices that are ours."""
    sides = (layer.lora_A, layer.lora_B)
    return (
        all(list(side) == [ADAPTER] for side in sides)
        and all(isinstance(side[ADAPTER], MasterLinear) for side in sides)
        and all(side[ADAPTER].bias is None for side in sides)
        and not any(m.rank_dropout or m.module_dropout for m in (s[ADAPTER] for s in sides))
        and isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity)
        and isinstance(layer.base_layer, torch.nn.Linear)
        and not layer.use_dora.get(ADAPTER, False)
        and not getattr(layer, "lora_variant", {})
    )


class PlainAttention:
    """Attention as SDXL has it; diffusers' own also divides by a factor that is 1."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        batch, length, _ = hidden_states.shape
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.view(batch, -1, attn.heads, part.shape[-1] // attn.heads).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).reshape(batch, length, -1)))


class _PlainResnet:
    """Mixed into diffusers' ResnetBlock2D; leaves out the division by 1."""

    def forward(self, input_tensor, temb, *_, **__):
        hidden = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden = self.conv2(self.dropout(self.nonlinearity(self.norm2(hidden))))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return input_tensor + hidden


def simplify(unet: torch.nn.Module) -> int:
    """Replace what SDXL does not need in attention and resnets; returns in how many places.

    The numbers stay the same to the bit: only divisions by 1 are left out.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    count = 0
    for module in unet.modules():
        if type(module) is Attention and _is_plain_attention(module):
            module.set_processor(PlainAttention())
            count += 1
        elif type(module) is ResnetBlock2D and _is_plain_resnet(module):
            if ResnetBlock2D not in _classes:
                _classes[ResnetBlock2D] = type("PlainResnet", (_PlainResnet, ResnetBlock2D), {})
            module.__class__ = _classes[ResnetBlock2D]
            count += 1
    return count


def _is_plain_attention(attn: torch.nn.Module) -> bool:
    extras = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k", "add_k_proj")
    return (
        all(getattr(attn, name, None) is None for name in extras)
        and attn.rescale_output_factor == 1.0
        and not attn.residual_connection
        and attn.to_k is not None
        and attn.scale == (attn.inner_dim // attn.heads) ** -0.5
    )


def _is_plain_resnet(block: torch.nn.Module) -> bool:
    return (
        block.output_scale_factor == 1.0
        and block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and block.time_emb_proj is not None
        and not block.skip_time_act
    )
