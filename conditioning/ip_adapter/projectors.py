"""Image projectors: from an encoder's output to tokens that sit beside the text tokens.

Their parameters carry the names used in the files, so a file's `image_proj` loads as it is.
Formulas: Ye et al. 2023, "IP-Adapter", section 3.2 (base); the resampler of the Plus files is the
Perceiver of Alayrac et al. 2022, "Flamingo", with feed-forward layers and heads of width 64.
`ops` is the namespace that Linear and LayerNorm are taken from (`torch.nn`, or one that moves and
casts weights when they are used).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

HEAD_WIDTH = 64


class BaseProjector(nn.Module):
    """One pooled embedding (B, E) -> (B, tokens, D)."""

    def __init__(self, weights: Mapping[str, torch.Tensor], ops=nn):
        super().__init__()
        outputs, width = weights["proj.weight"].shape
        self.context = weights["norm.weight"].shape[0]
        self.proj = ops.Linear(width, outputs)
        self.norm = ops.LayerNorm(self.context)

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(embeds).reshape(embeds.shape[0], -1, self.context))


class FullProjector(nn.Module):
    """Every position of the encoder's sequence (B, S, E) -> (B, S, D)."""

    def __init__(self, weights: Mapping[str, torch.Tensor], ops=nn):
        super().__init__()
        hidden, width = weights["proj.0.weight"].shape
        context = weights["proj.3.weight"].shape[0]
        self.proj = nn.Sequential(
            ops.Linear(width, hidden),
            nn.GELU(),
            ops.Linear(hidden, context),
            ops.LayerNorm(context),
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.proj(states)


class PerceiverAttention(nn.Module):
    """Latents (B, T, H) look at the picture (B, S, H) and at themselves."""

    def __init__(self, width: int, inner: int, ops=nn):
        super().__init__()
        self.heads = inner // HEAD_WIDTH
        self.norm1 = ops.LayerNorm(width)
        self.norm2 = ops.LayerNorm(width)
        self.to_q = ops.Linear(width, inner, bias=False)
        self.to_kv = ops.Linear(width, inner * 2, bias=False)
        self.to_out = ops.Linear(inner, width, bias=False)

    def _heads(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, states: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat((self.norm1(states), latents), dim=1)).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(
            self._heads(self.to_q(latents)), self._heads(keys), self._heads(values)
        )
        return self.to_out(out.transpose(1, 2).flatten(2))


class PlusProjector(nn.Module):
    """The encoder's sequence (B, S, E), resampled by learnt queries -> (B, T, D)."""

    def __init__(self, weights: Mapping[str, torch.Tensor], ops=nn):
        super().__init__()
        hidden, width = weights["proj_in.weight"].shape
        context = weights["proj_out.weight"].shape[0]
        self.latents = nn.Parameter(torch.empty(weights["latents"].shape), requires_grad=False)
        self.proj_in = ops.Linear(width, hidden)
        self.proj_out = ops.Linear(hidden, context)
        self.norm_out = ops.LayerNorm(context)
        depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("layers."))
        self.layers = nn.ModuleList(self._layer(weights, i, hidden, ops) for i in range(depth))

    @staticmethod
    def _layer(weights: Mapping[str, torch.Tensor], index: int, hidden: int, ops) -> nn.ModuleList:
        inner = weights[f"layers.{index}.0.to_q.weight"].shape[0]
        wide = weights[f"layers.{index}.1.1.weight"].shape[0]
        feed_forward = nn.Sequential(
            ops.LayerNorm(hidden),
            ops.Linear(hidden, wide, bias=False),
            nn.GELU(),
            ops.Linear(wide, hidden, bias=False),
        )
        return nn.ModuleList((PerceiverAttention(hidden, inner, ops), feed_forward))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.proj_in(states)
        latents = self.latents.to(states).expand(states.shape[0], -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(states, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


PROJECTORS = {"base": BaseProjector, "plus": PlusProjector, "full": FullProjector}
