"""Turn any kind of adapter into a plain LoRA, for programs that read nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from .errors import FileError
from .lowrank import balanced, rank_for_energy, svd_of_product, truncated_svd
from .parts import DOWN, MID, UP, Parts, change, kind_of, scale_of
from .rng import generator

DOUBLE_BELOW = 1 << 20  # numbers in a matrix whose decomposition is affordable in float64


@dataclass(frozen=True)
class Baked:
    """A plain LoRA of one layer.

    Attributes:
        kept: share of the change's squared size that it holds, 1 for all.
    """

    parts: Parts
    kept: float


def resize_layer(
    name: str,
    parts: Mapping[str, torch.Tensor],
    rank: int | None = None,
    energy: float | None = None,
    weight: torch.Tensor | None = None,
) -> Baked:
    """The best plain LoRA of at most a rank, or of the smallest rank with a share of the energy.

    The truncated singular value decomposition is the best there is (Eckart and Young 1936).

    Args:
        energy: share of the squared singular values to keep, in (0, 1].
        weight: the layer's original weight, where the kind needs it (DoRA, OFT).

    Raises:
        FileError: see `change`; or a rank is missing for a change without one.
    """
    if kind_of(parts) == "lora" and MID not in parts:
        if len(parts[DOWN]) != parts[UP].flatten(1).shape[1]:
            shapes = tuple(parts[DOWN].shape), tuple(parts[UP].shape)
            raise FileError(f"its parts do not fit together {shapes}")
        down, up = parts[DOWN].double(), parts[UP].double()
        u, s, v = svd_of_product(up.flatten(1) * scale_of(parts), down.flatten(1))
        kernel, total = down.shape[1:], s.square().sum()
    else:
        matrix = change(parts, None if weight is None else weight.float())
        if matrix.ndim < 2:
            raise FileError("it changes a bias or a norm, which a LoRA cannot say")
        flat, kernel = matrix.flatten(1), matrix.shape[1:]
        flat = flat.double() if flat.numel() <= DOUBLE_BELOW else flat
        wanted = min(rank or min(flat.shape), *flat.shape)
        u, s, v = truncated_svd(flat, wanted, generator("bake", name))
        total = flat.square().sum()
    keep = min(rank or len(s), len(s))
    if energy is not None:
        keep = min(keep, rank_for_energy(s, energy))
    new_up, new_down = balanced(u, s, v, keep)
    made = {
        DOWN: new_down.reshape(keep, *kernel).float(),
        UP: new_up.reshape(-1, keep, *[1] * (len(kernel) - 1)).float(),
        "alpha": torch.tensor(float(keep)),
    }
    share = float(s[:keep].square().sum() / total) if total else 1.0
    return Baked(made, min(share, 1.0))


def kept_overall(baked: Iterable[Baked]) -> float:
    """The smallest share that a layer kept."""
    return min((b.kept for b in baked), default=1.0)
