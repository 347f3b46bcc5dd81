"""Colour and pattern of one garment: patterns are fitted like a regression, then named."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from .. import palette
from ..patterns import CHECK_PERIOD, DOT_PERIOD, STRIPE_PERIOD, second_colour_mask
from ..skeleton import L_HIP, NECK, R_HIP, Pose
from ..specs import LOWER_KINDS, Cloth
from .colours import SMALL_PX, inner, name_colour, read_colour

# The two colours of a cloth must differ by this much (OKLab), and explain this share of what varies
# in it, to count as a pattern.
_PATTERN_CONTRAST = 0.12
_PATTERN_GAIN = 0.3
_STEPS = 6  # phases tried per direction
_WINDOW = 0.8  # spread of a window in periods


@dataclass(frozen=True, eq=False)
class ClothFit:
    pattern: str
    first: np.ndarray
    second: np.ndarray
    residual: np.ndarray  # (N,) squared error per pixel in OKLab
    gain: float  # share of the variance that the pattern explains


def enough_visible(mask: np.ndarray, pose: Pose) -> bool:
    """Whether so much of a garment shows that its pattern can be told: 3 % of height squared."""
    return bool(mask.sum() >= 0.03 * (pose.unit * mask.shape[0]) ** 2)


def read_cloth(picture: np.ndarray, mask: np.ndarray, pose: Pose, kind: str) -> Cloth | None:
    """Colour and pattern of the garment of `kind` that covers `mask`; None for an empty mask.

    Args:
        picture: (H, W, 3) uint8; mask: (H, W) bool; pose: where the wearer is.
    """
    fit = fit_cloth(picture, inner(mask), pose, kind in LOWER_KINDS)
    if fit is None:
        return None
    first, second = (name_colour(c, palette.CLOTH) for c in (fit.first, fit.second))
    if fit.pattern == "plain" or first == second:
        return Cloth(kind, read_colour(picture, mask, palette.CLOTH))
    return Cloth(kind, first, fit.pattern, second)


def same_cloth(a: Cloth | None, b: Cloth | None) -> bool:
    """Equal, where the order of the colours of stripes and checks does not count."""
    if a is None or b is None:
        return a is b
    swapped = replace(b, colour=b.colour2, colour2=b.colour)
    return a == b or (b.pattern in ("stripes", "checks") and a == swapped)


def fit_cloth(picture, mask, pose: Pose, hangs: bool) -> ClothFit | None:
    pixels = picture[mask].astype(np.float32)
    if len(pixels) == 0:
        return None
    lab = palette.oklab(pixels)
    centre = np.median(lab, axis=0)
    plain = ((lab - centre) ** 2).sum(axis=1)
    best = ClothFit("plain", np.median(pixels, axis=0), pixels.mean(axis=0), plain, 0.0)
    if len(pixels) < SMALL_PX:
        return best
    offset = lab - lab.mean(axis=0)
    windows = _windows(mask, STRIPE_PERIOD * pose.unit * mask.shape[0])
    winner = best
    for pattern, covers in _pattern_covers(picture.shape, pose, hangs).items():
        cover = _bent(covers[:, mask], offset, windows)
        centred = cover - cover.mean()
        spread = float((centred**2).sum())
        if spread < 0.02 * len(lab):  # a pattern must vary under the mask
            continue
        slope = centred @ offset / spread
        gain = float((slope**2).sum()) * spread / max(float((offset**2).sum()), 1e-9)
        if np.linalg.norm(slope) < _PATTERN_CONTRAST or gain <= max(_PATTERN_GAIN, winner.gain):
            continue
        error = ((offset - centred[:, None] * slope) ** 2).sum(axis=1)
        winner = ClothFit(pattern, *_ends(pixels, cover), error, gain)
    return winner


def _windows(mask: np.ndarray, period: float) -> np.ndarray:
    """(K, N) weights of soft windows, about two periods wide, over the N pixels of the mask."""
    y, x = np.nonzero(mask)
    ends = [(v.min(), max(v.max(), v.min() + 1)) for v in (y, x)]  # a line of pixels has a window
    centres = [np.arange(low + period / 2, high + period / 2, period) for low, high in ends]
    at_y, at_x = (grid.reshape(-1, 1) for grid in np.meshgrid(*centres, indexing="ij"))
    square = ((y - at_y) ** 2 + (x - at_x) ** 2) / (_WINDOW * period) ** 2
    weights = np.exp(-0.5 * square).astype(np.float32)
    full = weights.sum(axis=1)
    return weights[full >= 0.1 * full.max()]


def _bent(covers: np.ndarray, offset: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(N,) a pattern whose phase follows the picture from window to window.

    A painted pattern is never as straight as a drawn one: what makes it stripes is that it is
    striped everywhere.

    Args:
        covers: (P, N) the pattern in P phases; offset: (N, 3) colours less their mean.
    """
    axis = np.linalg.svd(offset, full_matrices=False)[2][0]
    value = offset @ axis
    total = windows.sum(axis=1)

    def mean(of: np.ndarray) -> np.ndarray:
        return (windows @ of.T).T / total

    middle = mean(covers)
    spread = mean(covers**2) - middle**2
    shared = mean(covers * value) - middle * mean(value)
    bent = []
    for sign in (1, -1):  # which colour is the first is the same everywhere
        scores = np.maximum(sign * shared, 0) ** 2 / np.maximum(spread, 0.01)
        chosen = (scores @ windows).argmax(axis=0)
        best = (scores.max(axis=0) * total).sum()
        bent.append((best, covers[chosen, np.arange(covers.shape[1])]))
    return max(bent, key=lambda one: one[0])[1]


def _ends(pixels: np.ndarray, cover: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second colour: the middle of the pixels that are most surely one or the other."""
    low, high = float(cover.min()), float(cover.max())
    margin = 0.2 * (high - low)
    return (np.median(pixels[cover <= low + margin], axis=0),
            np.median(pixels[cover >= high - margin], axis=0))  # fmt: skip


def _pattern_covers(shape, pose: Pose, hangs: bool) -> dict[str, np.ndarray]:
    """Of every pattern the shares of the second colour, (P, H, W) in P phases."""
    hip = (pose.points[R_HIP] + pose.points[L_HIP]) / 2
    origin = hip if hangs else pose.points[NECK]
    down = np.array([0.0, 1.0]) if hangs else hip - origin
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    key = (shape[:2], tuple(np.round(origin, 4)), tuple(np.round(down, 3)), round(pose.unit, 4))
    return _covers(*key)


@lru_cache(maxsize=4)
def _covers(shape, origin, down, unit) -> dict[str, np.ndarray]:
    height, width = shape
    x = (np.arange(width * 2, dtype=np.float32) + 0.5) / (height * 2)
    y = (np.arange(height * 2, dtype=np.float32) + 0.5) / (height * 2)
    found = {}
    for pattern, period in (("stripes", STRIPE_PERIOD), ("dots", DOT_PERIOD),
                            ("checks", CHECK_PERIOD)):  # fmt: skip
        blur = max(period * unit * height / 14, 0.3)
        covers = []
        for i in range(_STEPS if pattern != "stripes" else 1):
            for j in range(_STEPS):
                phase = (i / _STEPS, j / _STEPS)
                fine = second_colour_mask(pattern, x, y, origin, down, unit, phase)
                fine = fine.view(np.uint8)
                cover = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
                covers.append(ndimage.gaussian_filter(cover.astype(np.float32) / 4, blur))
        found[pattern] = np.stack(covers)
    return found
