"""Distances against brute force: the nearest of many points on the outline."""

import numpy as np
import pytest

from conditioning.shapes import Capsule, Ellipse, HalfPlane, Hull, convex_hull

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-20, 40, (400, 2)).astype(np.float32)


def nearest(outline: np.ndarray) -> np.ndarray:
    return np.linalg.norm(POINTS[:, None] - outline[None], axis=2).min(axis=1)


def filled(corners: list, count: int = 4000) -> np.ndarray:
    """The outline of a polygon as many points."""
    edges = [
        np.linspace(a, b, count // len(corners), endpoint=False)
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return np.concatenate(edges)


def test_capsule_of_one_radius_is_the_distance_to_its_segment():
    shape = Capsule((0, 5), (25, 10), 3, 3)
    segment = np.linspace((0, 5), (25, 10), 4000)
    np.testing.assert_allclose(shape.distance(*POINTS.T), nearest(segment) - 3, atol=0.01)


def test_tapered_capsule_has_its_radii_at_the_ends():
    shape = Capsule((0, 0), (100, 0), 5, 20)
    assert shape.distance(np.float32(0), np.float32(5)) == pytest.approx(0)
    assert shape.distance(np.float32(100), np.float32(20)) == pytest.approx(0)
    assert shape.distance(np.float32(50), np.float32(0)) == pytest.approx(-12.5)


def test_capsule_without_length_is_a_circle():
    shape = Capsule((3, 4), (3, 4), 5, 5)
    np.testing.assert_allclose(
        shape.distance(*POINTS.T), np.linalg.norm(POINTS - (3, 4), axis=1) - 5, atol=1e-3
    )


def test_hull_of_random_points():
    for _ in range(20):
        cloud = RNG.uniform(0, 20, (7, 2))
        shape = Hull.around(cloud, 2.0)
        corners = [np.array(p) for p in shape.points]
        gap = nearest(filled(corners))
        inside = np.all(
            [
                (b - a)[0] * (POINTS - a)[:, 1] - (b - a)[1] * (POINTS - a)[:, 0] > 0
                for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
            ],
            axis=0,
        )
        expected = np.where(inside, -gap, gap) - 2.0
        np.testing.assert_allclose(shape.distance(*POINTS.T), expected, atol=0.05)


@pytest.mark.parametrize("points", [[(4, 4)], [(4, 4), (4, 4)], [(0, 0), (20, 10)]])
def test_hull_of_one_or_two_points(points):
    shape = Hull.around(points, 1.5)
    outline = np.linspace(points[0], points[-1], 4000)
    np.testing.assert_allclose(shape.distance(*POINTS.T), nearest(outline) - 1.5, atol=0.01)


def test_hull_of_points_on_a_line_has_no_inside():
    shape = Hull.around([(0, 0), (10, 0), (20, 0), (5, 0)], 0.0)
    assert (shape.distance(*POINTS.T) >= 0).all()


def test_convex_hull_drops_inner_points():
    corners = convex_hull([(0, 0), (4, 0), (4, 4), (0, 4), (2, 2), (2, 0)])
    assert corners == [(0, 0), (4, 0), (4, 4), (0, 4)]


def test_ellipse_is_zero_on_its_outline_and_exact_for_circles():
    angle = np.linspace(0, 2 * np.pi, 50)
    along = (0.6, -0.8)
    across = (0.8, 0.6)
    outline = 9 * np.cos(angle)[:, None] * along + 4 * np.sin(angle)[:, None] * across + (7, 8)
    shape = Ellipse((7, 8), along, 9, 4)
    np.testing.assert_allclose(shape.distance(*outline.T), 0, atol=1e-6)
    assert shape.distance(np.float32(7), np.float32(8)) == -4
    circle = Ellipse((7, 8), along, 6, 6)
    np.testing.assert_allclose(
        circle.distance(*POINTS.T), np.linalg.norm(POINTS - (7, 8), axis=1) - 6, atol=1e-3
    )


def test_half_plane_is_negative_against_its_normal():
    shape = HalfPlane((0, 10), (0, -1))
    assert shape.distance(np.float32(3), np.float32(14)) == -4
    assert shape.distance(np.float32(3), np.float32(7)) == 3


@pytest.mark.parametrize(
    "shape",
    [
        Capsule((0, 5), (25, 10), 3, 6),
        Hull.around([(0, 0), (12, 3), (5, 20)], 2),
        Ellipse((7, 8), (0.6, -0.8), 9, 4),
    ],
)
def test_nothing_outside_the_bounds_is_inside(shape):
    x0, y0, x1, y1 = shape.bounds()
    x, y = POINTS.T
    outside = (x < x0) | (x > x1) | (y < y0) | (y > y1)
    assert outside.any()
    assert (shape.distance(x, y)[outside] > 0).all()
