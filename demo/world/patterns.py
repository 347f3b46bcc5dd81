"""Cloth patterns as functions of the place on the body, so that they move with the wearer."""

import numpy as np

# Periods in body heights; chosen so that one period is about ten pixels on a person 110 px tall.
STRIPE_PERIOD = 0.092
DOT_PERIOD = 0.092
DOT_RADIUS = 0.030
CHECK_PERIOD = 0.116


def _turn(value: np.ndarray, phase: float) -> np.ndarray:
    """The fractional part of value + phase; several times faster than `%`."""
    value = value + np.float32(phase)
    return value - np.floor(value)


def second_colour_mask(
    pattern: str,
    x: np.ndarray,
    y: np.ndarray,
    origin: tuple[float, float],
    down: tuple[float, float],
    unit: float,
    phase: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Where the second colour shows.

    Args:
        pattern: "stripes" (across the body), "dots" or "checks".
        x, y: (W,) and (H,) sample positions in picture heights.
        origin: where the pattern is pinned to the body; down: unit vector along the body.
        unit: body height in picture heights.
        phase: shift in periods across and along the body (readers try several).

    Returns:
        (H, W) bool.
    """
    x = ((x - origin[0]) / unit).astype(np.float32)[None, :]
    y = ((y - origin[1]) / unit).astype(np.float32)[:, None]
    along = x * np.float32(down[0]) + y * np.float32(down[1])
    if pattern == "stripes":
        return _turn(along / STRIPE_PERIOD, phase[1]) < 0.46
    across = x * np.float32(down[1]) - y * np.float32(down[0])
    if pattern == "checks":
        u = _turn(across / CHECK_PERIOD, phase[0]) < 0.5
        return u == (_turn(along / CHECK_PERIOD, phase[1]) < 0.5)
    if pattern == "dots":
        u = _turn(across / DOT_PERIOD, phase[0] + 0.5) - np.float32(0.5)
        v = _turn(along / DOT_PERIOD, phase[1]) - np.float32(0.5)
        return u * u + v * v < (DOT_RADIUS / DOT_PERIOD) ** 2
    raise ValueError(f"pattern {pattern!r} is none of stripes, dots, checks")
