"""The arithmetic of one attention layer: what references add to the text cross attention.

For a query Q of the text attention, reference r adds (Ye et al. 2023, "IP-Adapter", equation 5)

    w_r * M_r * softmax(Q (T_r Wk)^T / sqrt(d)) (T_r Wv)

before the output projection; w_r is already in the values. ComfyUI runs several conditionings as
one batch of C chunks x F frames: every chunk is told with the reference or without it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Keys and values (F or 1, T, C) of one layer, with the reference and without."""

    positive: tuple[torch.Tensor, torch.Tensor]
    negative: tuple[torch.Tensor, torch.Tensor]
    _stacked: dict[tuple[bool, ...], tuple] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in (self.positive, self.negative) for tensor in pair)

    def batch(self, told: tuple[bool, ...], frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(len(told) * frames, T, C) keys and values, one block of `frames` for each chunk.

        The blocks are put together once: the same chunks come back in every step.
        """
        if told not in self._stacked:
            self._stacked[told] = tuple(
                torch.stack(torch.broadcast_tensors(*(pair[not flag] for flag in told)))
                for pair in zip(self.positive, self.negative, strict=True)
            )
        return tuple(part.expand(-1, frames, -1, -1).flatten(0, 1) for part in self._stacked[told])


def add_reference_output(
    out: torch.Tensor,
    query: torch.Tensor,
    cached: KeysValues,
    told: tuple[bool, ...],
    attend: Attend,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The attention output with what one reference adds to it.

    Args:
        out: (chunks * frames, N, C), the output so far; it is not changed.
        query: (chunks * frames, N, C).
        cached: keys and values of this layer.
        told: for each chunk, whether it is told the reference (True) or its absence (False).
        attend: (q, k, v) -> (B, N, C), multi-head attention.
        mask: (chunks * frames or 1, N, 1) or None.
    """
    keys, values = cached.batch(told, query.shape[0] // len(told))
    said = attend(query, keys, values)
    return out + said if mask is None else torch.addcmul(out, said, mask)
