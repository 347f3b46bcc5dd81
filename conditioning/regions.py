"""Regions of a picture from the skeletons in it: soft masks that share every pixel between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

# Every pixel is divided between these: their masks add up to 1.
PARTS = ("background", "head", "hands", "upper", "lower", "feet")
# Unions of parts that have a name of their own.
UNIONS: Mapping[str, tuple[str, ...]] = {
    "person": ("head", "hands", "upper", "lower", "feet"),
    "outfit": ("upper", "lower", "feet"),
}
REGIONS = (*PARTS, *UNIONS)


@dataclass(frozen=True)
class RegionSet:
    """The regions of N frames, drawn as masks at any size on demand."""

    width: int
    height: int

    def mask(
        self, name: str, width: int = 0, height: int = 0, person: int | None = None
    ) -> torch.Tensor:
        """(N, height, width) float32, 0..1; the canvas size when none is given."""
        raise NotImplementedError

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """All `REGIONS` at canvas size."""
        return {name: self.mask(name) for name in REGIONS}


def regions_from_poses(frames: Sequence, width: int = 0, height: int = 0, **options) -> RegionSet:
    """The regions of `frames` (PoseFrame) on a canvas of width x height pixels."""
    raise NotImplementedError
