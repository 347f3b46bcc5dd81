"""Masks in picture space -> one value for each attention token, exactly.

A UNet halves its latent with stride-2 convolutions that round up, so N tokens are laid out as
(ceil(h / 2^d), ceil(w / 2^d)) for the d that gives N; a cell then covers 2^d x 2^d latents, the
last row and column possibly fewer. The mask is averaged over each cell's exact area, which keeps
soft edges soft and masks that add up to 1 adding up to 1.
"""

import math

import torch

from .errors import IPAdapterError

Area = tuple[int, int, int, int]  # height, width, top, left, in latents


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int, int] | None:
    """(rows, columns, cell) of `tokens` attention tokens on a latent of height x width.

    `cell` is the side of a cell in latents. None when no halving gives that many tokens.
    """
    cell = 1
    while True:
        rows, columns = math.ceil(height / cell), math.ceil(width / cell)
        if rows * columns == tokens:
            return rows, columns, cell
        if rows * columns < tokens or rows * columns == 1:
            return None
        cell *= 2


def cell_weights(cells: int, size: int, start: float, step: float, stop: float) -> torch.Tensor:
    """(cells, size) float64: how much each of `size` mask pixels counts in each cell.

    Cell i covers [start + i * step, start + (i + 1) * step), cut off at `stop`, in mask pixels.
    Every row adds up to 1.
    """
    edges = torch.arange(cells, dtype=torch.float64) * step + start
    low = edges.unsqueeze(1)
    high = (edges + step).clamp(max=stop).unsqueeze(1)
    pixels = torch.arange(size, dtype=torch.float64).unsqueeze(0)
    overlap = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True).clamp(min=1e-12)


def mask_tokens(
    mask: torch.Tensor,
    grid: tuple[int, int],
    latent_hw: tuple[int, int],
    area: Area | None = None,
    cell: float | None = None,
) -> torch.Tensor:
    """Average a mask over the cells of an attention grid.

    Args:
        mask: (M, H, W), 0..1, over the whole picture, at any size.
        grid: (rows, columns) of the attention tokens.
        latent_hw: size of the whole latent.
        area: the part of the latent that these tokens cover, when the model sees a crop.
        cell: side of a cell in latents; None spreads the grid evenly over the area.

    Returns:
        (M, rows * columns) float32.
    """
    height, width, top, left = area or (*latent_hw, 0, 0)
    matrices = []
    spans = ((grid[0], top, height), (grid[1], left, width))
    for (cells, start, length), size, full in zip(spans, mask.shape[1:], latent_hw, strict=True):
        scale = size / full
        step = (cell or length / cells) * scale
        matrices.append(
            cell_weights(cells, size, start * scale, step, (start + length) * scale).float()
        )
    rows, columns = (matrix.to(mask.device) for matrix in matrices)
    return torch.einsum("rh,mhw,cw->mrc", rows, mask.float(), columns).flatten(1).clamp(0, 1)


def check_mask(mask: torch.Tensor) -> torch.Tensor:
    """A mask as (M, H, W) float, values clamped to 0..1.

    Raises:
        IPAdapterError: not a mask at all.
    """
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        shape = tuple(getattr(mask, "shape", ()))
        raise IPAdapterError(f"The mask must be (frames, height, width), but is {shape}.")
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    return mask.detach().float().nan_to_num(0.0).clamp(0, 1)
