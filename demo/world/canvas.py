"""A label picture: shapes are drawn as small integers, and turned into colours at the very end.

Drawing labels instead of colours gives the picture and its exact truth masks in one go, and makes
outlines, patterns and shadows plain array work. Labels: 1-63 person, 64-127 background; bit 7 (128)
asks for the shaded variant of the same label.
"""

from collections.abc import Sequence
from math import cos, hypot, pi, sin

import numpy as np
from PIL import Image, ImageDraw

PERSON_END = 64
SHADE = 128

Point = tuple[float, float]

_CIRCLE = [(cos(2 * pi * i / 24), sin(2 * pi * i / 24)) for i in range(24)]


class Pen:
    """Draws in picture heights (origin top left, y down) on a supersampled label picture."""

    def __init__(self, size: tuple[int, int], supersample: int):
        self.scale = size[1] * supersample
        self.aspect = size[0] / size[1]
        self._image = Image.new("L", (size[0] * supersample, size[1] * supersample))
        self._draw = ImageDraw.Draw(self._image)

    def labels(self) -> np.ndarray:
        """(height, width) uint8 copy at the supersampled size."""
        return np.array(self._image)

    def fill(self, label: int) -> None:
        self._image.paste(label, (0, 0, *self._image.size))

    def polygon(self, points: Sequence[Point], label: int) -> None:
        k = self.scale
        self._draw.polygon([(x * k, y * k) for x, y in points], fill=label)

    def box(self, left: float, top: float, right: float, bottom: float, label: int) -> None:
        k = self.scale
        self._draw.rectangle((left * k, top * k, right * k, bottom * k), fill=label)

    def circle(self, x: float, y: float, radius: float, label: int) -> None:
        self.ellipse(x, y, radius, radius, label)

    def ellipse(self, x: float, y: float, rx: float, ry: float, label: int) -> None:
        k = self.scale
        self._draw.ellipse(((x - rx) * k, (y - ry) * k, (x + rx) * k, (y + ry) * k), fill=label)

    def capsule(self, a: Point, b: Point, ra: float, rb: float, label: int) -> None:
        """Two circles and everything between them: a limb."""
        self.circle(a[0], a[1], ra, label)
        self.circle(b[0], b[1], rb, label)
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = hypot(dx, dy)
        if length > 1e-6:
            nx, ny = -dy / length, dx / length
            self.polygon(
                [
                    (a[0] + nx * ra, a[1] + ny * ra),
                    (b[0] + nx * rb, b[1] + ny * rb),
                    (b[0] - nx * rb, b[1] - ny * rb),
                    (a[0] - nx * ra, a[1] - ny * ra),
                ],
                label,
            )

    def hull(self, circles: Sequence[tuple[float, float, float]], label: int) -> None:
        """The convex hull of circles (x, y, radius): skirts and coat tails."""
        points = [(x + r * c, y + r * s) for x, y, r in circles for c, s in _CIRCLE[::2]]
        self.polygon(_convex_hull(points), label)


class LocalPen:
    """A pen in a turned and scaled frame: u to the right, v up (the head's own frame)."""

    def __init__(self, pen: Pen, origin: Point, up: Point, unit: float):
        self.pen = pen
        self.unit = unit
        self._o, self._up = origin, up

    def at(self, u: float, v: float) -> Point:
        (ox, oy), (ux, uy), k = self._o, self._up, self.unit
        return ox + (v * ux - u * uy) * k, oy + (v * uy + u * ux) * k

    def polygon(self, points: Sequence[Point], label: int) -> None:
        self.pen.polygon([self.at(u, v) for u, v in points], label)

    def circle(self, u: float, v: float, radius: float, label: int) -> None:
        self.pen.circle(*self.at(u, v), radius * self.unit, label)

    def ellipse(self, u: float, v: float, ru: float, rv: float, label: int) -> None:
        self.polygon([(u + ru * c, v + rv * s) for c, s in _CIRCLE], label)

    def capsule(self, a: Point, b: Point, radius: float, label: int) -> None:
        r = radius * self.unit
        self.pen.capsule(self.at(*a), self.at(*b), r, r, label)


def _convex_hull(points: list[Point]) -> list[Point]:
    """Monotone chain."""
    points = sorted(points)

    def half(ordered):
        chain: list[Point] = []
        for p in ordered:
            while len(chain) >= 2:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(points) + half(points[::-1])


def develop(labels: np.ndarray, colours: np.ndarray, factor: int) -> np.ndarray:
    """Labels to an 8-bit RGB picture, box-averaged by `factor`.

    Args:
        labels: (H * factor, W * factor) uint8.
        colours: (256, 3) uint8, the colour of every label.

    Returns:
        (H, W, 3) uint8.
    """
    # Four bytes per colour make the look-up one gather per sample, and Pillow averages in C.
    packed = np.zeros((256, 4), np.uint8)
    packed[:, :3] = colours
    pixels = packed.view(np.uint32)[:, 0][labels]
    image = Image.frombuffer("RGBX", labels.shape[::-1], pixels, "raw", "RGBX", 0, 1)
    return np.array((image.reduce(factor) if factor > 1 else image).convert("RGB"))
