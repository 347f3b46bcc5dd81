"""Signed distances in pixels to the few shapes a body is made of; negative is inside.

Every shape offers `distance(x, y)` for broadcastable float arrays of pixel coordinates, and
`bounds()` (x0, y0, x1, y1), a box outside of which the distance is positive. Distances change
continuously with the points of a shape, so masks made from them do not jump between frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Capsule:
    """A line from a to b whose radius changes from `radius_a` to `radius_b`."""

    a: Point
    b: Point
    radius_a: float
    radius_b: float

    def bounds(self) -> Box:
        return _box((self.a, self.b), max(self.radius_a, self.radius_b))

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        (ax, ay), (bx, by) = self.a, self.b
        dx, dy = bx - ax, by - ay
        length_sq = max(dx * dx + dy * dy, 1e-12)
        along = ((x - ax) * dx + (y - ay) * dy) / length_sq
        along = np.clip(along, 0.0, 1.0)
        gap = np.hypot(x - ax - along * dx, y - ay - along * dy)
        return gap - (self.radius_a + along * (self.radius_b - self.radius_a))


@dataclass(frozen=True)
class Hull:
    """The convex hull of some points (a point or a line when they are few), rounded outwards."""

    points: tuple[Point, ...]
    radius: float

    @classmethod
    def around(cls, points: Iterable[Point], radius: float) -> "Hull":
        """The hull of any points; those inside are dropped."""
        return cls(tuple(convex_hull(points)), radius)

    def bounds(self) -> Box:
        return _box(self.points, self.radius)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Exact: the nearest edge, negative where every edge has the point on its inner side."""
        count = len(self.points)
        nearest_sq, inside = np.inf, True
        for index, (ax, ay) in enumerate(self.points):
            bx, by = self.points[(index + 1) % count]
            dx, dy = bx - ax, by - ay
            length_sq = max(dx * dx + dy * dy, 1e-12)
            px, py = x - ax, y - ay
            along = np.clip((px * dx + py * dy) / length_sq, 0.0, 1.0)
            gap_sq = (px - along * dx) ** 2 + (py - along * dy) ** 2
            nearest_sq = np.minimum(nearest_sq, gap_sq)
            if count > 2:
                inside = inside & (dx * py - dy * px > 0.0)
        nearest = np.sqrt(nearest_sq)
        if count > 2:
            nearest = np.where(inside, -nearest, nearest)
        return nearest - self.radius


@dataclass(frozen=True)
class Ellipse:
    """An ellipse around `centre`; `along` is the unit direction of its first half axis."""

    centre: Point
    along: Point
    half_along: float
    half_across: float

    def bounds(self) -> Box:
        return _box((self.centre,), max(self.half_along, self.half_across))

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """First-order distance k (k - 1) / |grad k|, exact on the outline and for circles."""
        px, py = x - self.centre[0], y - self.centre[1]
        u = (px * self.along[0] + py * self.along[1]) / self.half_along
        v = (py * self.along[0] - px * self.along[1]) / self.half_across
        norm = np.hypot(u, v)
        slope = np.hypot(u / self.half_along, v / self.half_across)
        centre = -min(self.half_along, self.half_across)
        return np.where(slope > 1e-9, norm * (norm - 1.0) / np.maximum(slope, 1e-9), centre)


@dataclass(frozen=True)
class HalfPlane:
    """Everything on the far side of a line through `point`: inside is against `normal`."""

    point: Point
    normal: Point

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x - self.point[0]) * self.normal[0] + (y - self.point[1]) * self.normal[1]


Shape = Capsule | Hull | Ellipse


def convex_hull(points: Iterable[Point]) -> list[Point]:
    """Corners of the convex hull, counter-clockwise for x right and y up (monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return ordered

    def chain(sequence: Iterable[Point]) -> list[Point]:
        corners: list[Point] = []
        for point in sequence:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0.0:
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return chain(ordered) + chain(reversed(ordered))


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _box(points: Iterable[Point], radius: float) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs) - radius, min(ys) - radius, max(xs) + radius, max(ys) + radius
