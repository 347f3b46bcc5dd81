"""Filling ellipses, discs and thick lines in numpy, many at a time.

Every shape is cut into horizontal spans by its own equation; the spans of all shapes are then
written in one assignment, later shapes over earlier ones. The cost follows the painted pixels, not
the canvas, and shapes far outside of it cost next to nothing.

Spans are (4, S) int64 arrays: row, first column, last column, number of the colour in a palette.
Positions are continuous, pixel i covers [i, i + 1); it is painted if its centre is in the shape.
"""

from functools import lru_cache

import numpy as np


def ellipse_spans(
    centres: np.ndarray,
    axes: np.ndarray,
    directions: np.ndarray,
    colours: np.ndarray,
    height: int,
) -> np.ndarray:
    """Spans of filled ellipses.

    Args:
        centres: (K, 2) x, y in pixels.
        axes: (K, 2) half-axes in pixels, along and across `directions`.
        directions: (K, 2) unit vectors.
        colours: (K,) palette numbers.
        height: of the canvas; other rows are left out.
    """
    cos, sin = directions[:, 0], directions[:, 1]
    inv_a, inv_b = axes[:, 0] ** -2.0, axes[:, 1] ** -2.0
    # q(x, y) = qxx x^2 + 2 qxy x y + qyy y^2 <= 1, solved for x in every row y
    qxx = cos * cos * inv_a + sin * sin * inv_b
    slope = cos * sin * (inv_a - inv_b) / qxx
    det = inv_a * inv_b
    shape, rows = _rows(centres[:, 1], np.sqrt(qxx / det), height)
    dy = rows + 0.5 - centres[shape, 1]
    middle = centres[shape, 0] - slope[shape] * dy
    half = np.sqrt(np.maximum(qxx[shape] - det[shape] * dy * dy, 0.0)) / qxx[shape]
    return _spans(rows, middle - half, middle + half, colours[shape])


def line_spans(
    starts: np.ndarray, ends: np.ndarray, thickness: float, colours: np.ndarray, height: int
) -> np.ndarray:
    """Spans of straight lines `thickness` pixels wide, cut off at their box.

    The box is that of both ends, wider by half the thickness.


    Args:
        starts, ends: (K, 2) x, y in pixels.
        colours: (K,) palette numbers.
        height: of the canvas; other rows are left out.
    """
    middle = (starts + ends) / 2
    delta = ends - starts
    reach = (np.abs(delta) + thickness) / 2
    length = np.hypot(delta[:, 0], delta[:, 1]) + 1e-6
    dx, dy = delta[:, 0], delta[:, 1] + 1e-9 * length  # never level
    # |(x - cx) dy - (y - cy) dx| <= length * thickness / 2, solved for x in every row y
    slope = dx / dy
    half = length * (thickness / 2) / np.abs(dy)
    shape, rows = _rows(middle[:, 1], reach[:, 1], height)
    on_line = (rows + 0.5 - middle[shape, 1]) * slope[shape]
    left = np.maximum(on_line - half[shape], -reach[shape, 0])
    right = np.minimum(on_line + half[shape], reach[shape, 0])
    return _spans(rows, middle[shape, 0] + left, middle[shape, 0] + right, colours[shape])


def disc_spans(pixels: np.ndarray, radius: int, colours: np.ndarray | int) -> np.ndarray:
    """Spans of discs around `pixels`, (K, 2) x, y int; `colours` (K,) or one for all."""
    dy, half = _disc(radius)
    spans = np.empty((4, len(pixels), len(dy)), dtype=np.int64)
    spans[0] = pixels[:, 1:] + dy
    spans[1] = pixels[:, :1] - half
    spans[2] = pixels[:, :1] + half
    spans[3] = np.reshape(colours, (-1, 1))
    return spans.reshape(4, -1)


def paint(canvas: np.ndarray, spans: list[np.ndarray], palette: np.ndarray) -> None:
    """Write `spans` in order into `canvas` (H, W, 3) uint8, in colours of `palette` (P, 3) uint8.

    What lies outside of the canvas is left out.
    """
    height, width = canvas.shape[:2]
    rows, first, last, colours = np.concatenate(spans, axis=1)
    first = np.maximum(first, 0)
    lengths = np.minimum(last, width - 1) - first + 1
    lengths[(lengths < 0) | (rows < 0) | (rows >= height)] = 0
    end = np.cumsum(lengths)
    pixels = np.repeat(rows * width + first - (end - lengths), lengths)
    pixels += np.arange(len(pixels))
    # One item of three bytes per pixel; put goes through them in order, so later spans lie above.
    triples = palette.reshape(-1).view("V3").take(np.repeat(colours, lengths), mode="clip")
    np.put(canvas.reshape(-1).view("V3"), pixels, triples)


@lru_cache
def _disc(radius: int) -> tuple[np.ndarray, np.ndarray]:
    dy = np.arange(-radius, radius + 1)
    return dy, np.floor(np.sqrt(radius * radius - dy * dy)).astype(np.int64)


def _rows(middle: np.ndarray, reach: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(shape number, row) of each row whose centre lies within `reach` of each shape's middle."""
    first = np.minimum(np.maximum(np.ceil(middle - reach - 0.5), 0), height).astype(np.int64)
    last = np.minimum(np.floor(middle + reach - 0.5), height - 1).astype(np.int64)
    counts = np.maximum(last - first + 1, 0)
    shape = np.repeat(np.arange(len(counts)), counts)
    end = np.cumsum(counts)
    rows = np.arange(len(shape)) + (first - end + counts)[shape]
    return shape, rows


def _spans(
    rows: np.ndarray, left: np.ndarray, right: np.ndarray, colours: np.ndarray
) -> np.ndarray:
    spans = np.empty((4, len(rows)), dtype=np.int64)
    spans[0] = rows
    spans[1] = np.ceil(left - 0.5)
    spans[2] = np.floor(right - 0.5)
    spans[3] = colours
    return spans
