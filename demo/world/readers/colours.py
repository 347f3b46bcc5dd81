"""Colours and masks: what all readers share."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from scipy import ndimage

from .. import palette
from ..backgrounds import PALETTES
from ..specs import Background

SMALL_PX = 12  # a mask below this many pixels is not eroded


def name_colour(rgb: np.ndarray, colours: dict[str, palette.Rgb]) -> str:
    """The name of the colour nearest to `rgb` (3,), 0..255."""
    names = list(colours)
    table = palette.oklab(np.array([colours[name] for name in names]))
    return names[int(np.linalg.norm(table - palette.oklab(rgb), axis=1).argmin())]


def inner(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """The mask without its rim, where outline and antialiasing are; as it is when too thin."""
    eroded = ndimage.binary_erosion(mask, iterations=by)
    return eroded if eroded.sum() >= SMALL_PX else mask


def read_colour(picture: np.ndarray, mask: np.ndarray, colours: dict[str, palette.Rgb]) -> str:
    """The colour most pixels of `mask` come nearest to; "" when the mask is empty."""
    pixels = picture[inner(mask)]
    if len(pixels) == 0:
        return ""
    names = list(colours)
    table = palette.oklab(np.array([colours[name] for name in names]))
    lab = palette.oklab(pixels)
    nearest = np.linalg.norm(lab[:, None] - table[None], axis=2).argmin(axis=1)
    return names[int(np.bincount(nearest, minlength=len(names)).argmax())]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def distance_to(lab: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Distance of every pixel (..., 3) to the nearest of `colours` (K, 3)."""
    return np.linalg.norm(lab[..., None, :] - colours, axis=-1).min(axis=-1)


@lru_cache(maxsize=64)
def background_lab(background: Background) -> np.ndarray:
    colours = PALETTES[background.kind, background.tone]
    # Only the ground and a rug ever lie in a person's shadow.
    shadows = tuple(palette.shade(colours[i], 0.80) for i in (3, 7))
    return palette.oklab(np.array(colours + shadows))


def shaded(colours: Iterable[palette.Rgb]) -> np.ndarray:
    """The colours with their mixtures with their own outline, (K, 3) OKLab."""
    return palette.oklab(
        np.array([palette.shade(c, amount) for c in colours for amount in (1.0, 0.85, 0.7, 0.55)])
    )


def size_of(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def edges(parts: np.ndarray) -> np.ndarray:
    edge = np.zeros(parts.shape, bool)
    edge[1:] |= parts[1:] != parts[:-1]
    edge[:, 1:] |= parts[:, 1:] != parts[:, :-1]
    return edge
