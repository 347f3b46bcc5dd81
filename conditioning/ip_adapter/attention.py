"""The arithmetic of one attention layer: what references add to the text cross attention.

For a query Q of the text attention, reference r adds (Ye et al. 2023, "IP-Adapter", equation 5)

    w_r * M_r * softmax(Q (T_r Wk)^T / sqrt(d)) (T_r Wv)

before the output projection; w_r is already in the values. ComfyUI runs several conditionings as
one batch of C chunks x F frames: every chunk is told with the reference or without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Keys and values (F or 1, T, C), with the reference and without."""

    positive: tuple[torch.Tensor, torch.Tensor]
    negative: tuple[torch.Tensor, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in (self.positive, self.negative) for tensor in pair)


def chunk_batch(
    positive: torch.Tensor, negative: torch.Tensor, told: Sequence[bool], frames: int
) -> torch.Tensor:
    """(F or 1, T, C) each -> (len(told) * frames, T, C): one block of `frames` for each chunk."""
    parts = [positive if flag else negative for flag in told]
    if all(part is parts[0] for part in parts) and parts[0].shape[0] == 1:
        return parts[0].expand(len(parts) * frames, -1, -1)
    return torch.cat([part.expand(frames, -1, -1) for part in parts])


def reference_output(
    query: torch.Tensor,
    cached: KeysValues,
    told: Sequence[bool],
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What one reference adds to the attention output.

    Args:
        query: (chunks * frames, N, C).
        cached: keys and values of this layer.
        told: for each chunk, whether it is told the reference (True) or its absence (False).
        attend: (q, k, v) -> (B, N, C), multi-head attention.
        mask: (chunks * frames or 1, N, 1) or None.
    """
    frames = query.shape[0] // len(told)
    keys, values = (
        chunk_batch(positive, negative, told, frames)
        for positive, negative in zip(cached.positive, cached.negative, strict=True)
    )
    out = attend(query, keys, values)
    return out if mask is None else out * mask
