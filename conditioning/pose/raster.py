"""Filling ellipses, discs and thick lines in numpy, many at a time.

Every shape is cut into horizontal spans by its own equation; the spans of all shapes are then
written in one assignment, later shapes over earlier ones. The cost follows the painted pixels, not
the canvas, and shapes far outside of it cost nothing.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spans:
    """Horizontal runs of pixels: rows (S,), first and last column (S,), colours (S, 3) uint8."""

    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray
    colours: np.ndarray


def ellipse_spans(
    centres: np.ndarray,
    axes: np.ndarray,
    directions: np.ndarray,
    colours: np.ndarray,
    height: int,
) -> Spans:
    """The pixels whose centres lie inside filled ellipses.

    Args:
        centres: (K, 2) x, y in pixels, pixel i covering [i, i + 1).
        axes: (K, 2) half-axes in pixels, along and across `directions`.
        directions: (K, 2) unit vectors.
        colours: (K, 3) uint8.
        height: rows outside of 0 .. height - 1 are left out.
    """
    cos, sin = directions[:, 0], directions[:, 1]
    inv_a, inv_b = 1 / axes[:, 0] ** 2, 1 / axes[:, 1] ** 2
    # q(x, y) = qxx x^2 + 2 qxy x y + qyy y^2 <= 1, solved for x in every row y
    qxx = cos**2 * inv_a + sin**2 * inv_b
    qxy = cos * sin * (inv_a - inv_b)
    det = inv_a * inv_b
    reach = np.sqrt(qxx / det)
    shape, rows = _rows(centres[:, 1] - reach, centres[:, 1] + reach, height)
    dy = rows + 0.5 - centres[shape, 1]
    middle = centres[shape, 0] - (qxy / qxx)[shape] * dy
    half = np.sqrt(np.maximum(qxx[shape] - det[shape] * dy**2, 0.0)) / qxx[shape]
    return _spans(rows, middle - half, middle + half, colours[shape])


def line_spans(
    starts: np.ndarray, ends: np.ndarray, thickness: float, colours: np.ndarray, height: int
) -> Spans:
    """The pixels whose centres lie on lines `thickness` wide, 1 px longer at both ends.

    Args:
        starts, ends: (K, 2) x, y in pixels.
        colours: (K, 3) uint8.
        height: rows outside of 0 .. height - 1 are left out.
    """
    delta = ends - starts
    half_len = np.hypot(delta[:, 0], delta[:, 1]) / 2
    along = np.where(half_len[:, None] > 0, delta / np.maximum(2 * half_len, 1e-9)[:, None], (1, 0))
    centre = (starts + ends) / 2
    half_len = half_len + 1.0
    half = np.full_like(half_len, thickness / 2)
    reach = np.abs(along[:, 1]) * half_len + np.abs(along[:, 0]) * half
    shape, rows = _rows(centre[:, 1] - reach, centre[:, 1] + reach, height)
    dy = rows + 0.5 - centre[shape, 1]
    cos, sin = along[shape, 0], along[shape, 1]
    # |cos x + sin y| <= half_len and |-sin x + cos y| <= half: two intervals of x per row
    low_a, high_a = _interval(cos, sin * dy, half_len[shape])
    low_b, high_b = _interval(-sin, cos * dy, half[shape])
    low = centre[shape, 0] + np.maximum(low_a, low_b)
    high = centre[shape, 0] + np.minimum(high_a, high_b)
    return _spans(rows, low, high, colours[shape])


def paint(canvas: np.ndarray, spans: list[Spans]) -> None:
    """Write `spans` into `canvas` (H, W, 3) uint8, in order, clipped to its columns."""
    height, width = canvas.shape[:2]
    first = np.maximum(np.concatenate([s.first for s in spans]), 0)
    last = np.minimum(np.concatenate([s.last for s in spans]), width - 1)
    lengths = np.maximum(last - first + 1, 0)
    rows = np.concatenate([s.rows for s in spans])
    skipped = np.cumsum(lengths) - lengths
    pixels = np.repeat(rows * width + first - skipped, lengths) + np.arange(lengths.sum())
    # numpy keeps the last of several values assigned to one index, so order is paint order
    colours = np.concatenate([s.colours for s in spans])
    canvas.reshape(-1, 3)[pixels] = np.repeat(colours, lengths, axis=0)


def _rows(top: np.ndarray, bottom: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(shape index, row) for each row whose pixel centres lie within each shape's [top, bottom]."""
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.floor(bottom - 0.5), -1, height - 1).astype(np.int64)
    counts = np.maximum(last - first + 1, 0)
    shape = np.repeat(np.arange(len(counts)), counts)
    skipped = np.cumsum(counts) - counts
    return shape, np.arange(counts.sum()) - skipped[shape] + first[shape]


def _spans(rows: np.ndarray, left: np.ndarray, right: np.ndarray, colours: np.ndarray) -> Spans:
    first = np.ceil(left - 0.5).astype(np.int64)
    last = np.floor(right - 0.5).astype(np.int64)
    return Spans(rows, first, last, colours)


def _interval(
    slope: np.ndarray, offset: np.ndarray, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The x with |slope x + offset| <= bound; everything or nothing where slope is 0."""
    flat = np.abs(slope) < 1e-9
    safe = np.where(flat, 1.0, slope)
    one, two = (-bound - offset) / safe, (bound - offset) / safe
    everywhere = np.where(np.abs(offset) <= bound, 1e7, -1e7)
    low = np.where(flat, -everywhere, np.minimum(one, two))
    return low, np.where(flat, everywhere, np.maximum(one, two))
