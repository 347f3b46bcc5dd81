"""Moving poses to another canvas."""

from dataclasses import replace
from typing import Literal

import numpy as np

from ..errors import PoseError
from .model import Person, PoseFrame

Fit = Literal["contain", "cover", "stretch"]
FITS: tuple[Fit, ...] = ("contain", "cover", "stretch")


def fit_matrix(
    source: tuple[int, int], target: tuple[int, int], fit: Fit = "contain"
) -> np.ndarray:
    """The (2, 3) affine matrix that maps a canvas of `source` (width, height) onto `target`.

    "contain" shows all of the source, "cover" leaves no empty border, both centred and with the
    proportions kept; "stretch" scales each axis by itself.

    Raises:
        PoseError: an unknown `fit`.
    """
    scale_x, scale_y = target[0] / source[0], target[1] / source[1]
    if fit == "contain":
        scale_x = scale_y = min(scale_x, scale_y)
    elif fit == "cover":
        scale_x = scale_y = max(scale_x, scale_y)
    elif fit != "stretch":
        raise PoseError(f"Unknown fit {fit!r}: use one of {', '.join(FITS)}.")
    left = (target[0] - source[0] * scale_x) / 2
    top = (target[1] - source[1] * scale_y) / 2
    return np.array([[scale_x, 0.0, left], [0.0, scale_y, top]], dtype=np.float64)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`points` (N, 3) mapped by the (2, 3) affine `matrix`; missing points stay 0, 0, 0."""
    moved = np.zeros_like(points)
    seen = points[:, 2] > 0
    moved[seen, :2] = points[seen, :2] @ matrix[:, :2].T + matrix[:, 2]
    moved[seen, 2] = points[seen, 2]
    return moved


def transform_pose(frame: PoseFrame, matrix: np.ndarray, width: int, height: int) -> PoseFrame:
    """`frame` with every point mapped by the (2, 3) affine `matrix`, on a canvas of that size."""

    def moved(person: Person) -> Person:
        return replace(person, **{p.field: transform_points(a, matrix) for p, a in person.parts()})

    return PoseFrame(tuple(moved(person) for person in frame.people), width, height)


def resize_pose(frame: PoseFrame, width: int, height: int, fit: Fit = "contain") -> PoseFrame:
    """`frame` on a canvas of `width` x `height` pixels; see `fit_matrix` for `fit`."""
    if (frame.width, frame.height) == (width, height):
        return frame
    matrix = fit_matrix((frame.width, frame.height), (width, height), fit)
    return transform_pose(frame, matrix, width, height)
