"""Cheap hints about pictures that teach badly: too small, blurred, nearly the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASH_SIDE = 16
HASH_BITS = 2 * HASH_SIDE * HASH_SIDE
SAME_BITS = 24  # of HASH_BITS: a copy saved again, scaled or brightened stays below
BLOCK = 256  # pictures compared with all others at a time
GREY_MARGIN = 2.0  # of 255: smaller steps are noise, not a gradient
BLUR_SIDE = 512
BLUR_VARIANCE = 12.0  # sharp photographs lie above 40, a 4 px Gaussian blur at 1024 px below


@dataclass(frozen=True)
class Traits:
    """What `measure` saw: gradient bits (HASH_BITS bools), their count, and sharpness."""

    gradient_bits: np.ndarray
    sharpness: float


def measure(pixels_hwc: np.ndarray) -> Traits:
    """Traits of a uint8 (height, width, 3) picture.

    The bits are a difference hash (Krawetz, "Kind of Like That", 2013) in both directions on a
    16 x 16 grid. Sharpness is the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of
    the picture scaled to at most 512 px.
    """
    gray = Image.fromarray(pixels_hwc).convert("L")
    side = HASH_SIDE + 1
    grid = np.asarray(gray.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    across = grid[:-1, 1:] - grid[:-1, :-1] > GREY_MARGIN
    down = grid[1:, :-1] - grid[:-1, :-1] > GREY_MARGIN
    bits = np.concatenate([across.ravel(), down.ravel()])

    scale = min(1.0, BLUR_SIDE / max(gray.size))
    small = tuple(max(3, round(s * scale)) for s in gray.size)
    values = np.asarray(gray.resize(small, Image.Resampling.BOX), dtype=np.float32)
    center = values[1:-1, 1:-1]
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return Traits(bits, float((around - 4 * center).var()))


def is_blurred(traits: Traits) -> bool:
    """True where hardly any fine detail is left."""
    return traits.sharpness < BLUR_VARIANCE


def find_near_duplicates(traits: Sequence[Traits]) -> dict[int, int]:
    """{index of a picture: index of the earlier one it nearly equals}.

    Pictures are compared with the first of every group of look-alikes only; flat ones, which have
    hardly any gradient, with none.
    """
    if not traits:
        return {}
    bits = np.stack([t.gradient_bits for t in traits]).astype(np.float32)
    counts = bits.sum(axis=1)
    flat = counts <= SAME_BITS
    found: dict[int, int] = {}
    for start in range(0, len(bits), BLOCK):
        block = slice(start, start + BLOCK)
        # bits that differ = ones here + ones there - twice the common ones; exact in float32
        common = bits[block] @ bits[start:].T
        alike = counts[block, None] + counts[start:] - 2 * common <= SAME_BITS
        for row in range(len(alike)):
            first = start + row
            if flat[first] or first in found:
                continue
            for index in np.flatnonzero(alike[row, row + 1 :] & ~flat[first + 1 :]) + first + 1:
                found.setdefault(int(index), first)
    return found
