"""Writing POSE_KEYPOINT: frame dicts that other nodes, editors and our own reader understand."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from ..errors import PoseError
from .model import PARTS, Person, PoseFrame

Confidence = Literal["real", "binary"]
CONFIDENCES: tuple[Confidence, ...] = ("real", "binary")


def write_poses(
    frames: Iterable[PoseFrame], confidence: Confidence = "real", threshold: float = 0.0
) -> list[dict]:
    """`frames` as POSE_KEYPOINT: flat x, y, confidence triples in pixels of the canvas.

    Every part is written, absent ones as zeros: core's drawing fails on null, and the readers
    that expect null read zeros as absent too. `read_poses` gives back the same arrays bit by bit.

    Args:
        confidence: "real" writes it as it is; "binary" writes 1.0, because some consumers drop
            every point below that.
        threshold: points with a confidence below it are written as missing.

    Raises:
        PoseError: an unknown `confidence`.
    """
    if confidence not in CONFIDENCES:
        raise PoseError(f"Unknown confidence {confidence!r}: use {' or '.join(CONFIDENCES)}.")
    return [
        {
            "people": [_person(person, confidence, threshold) for person in frame.people],
            "canvas_width": frame.width,
            "canvas_height": frame.height,
            "units": "pixels",  # ours: a tiny figure cannot be taken for fractions of the canvas
        }
        for frame in frames
    ]


def _person(person: Person, confidence: Confidence, threshold: float) -> dict[str, list[float]]:
    written = {}
    for part in PARTS:
        points = getattr(person, part.field)
        points = np.zeros((part.points, 3), np.float32) if points is None else points.copy()
        points[(points[:, 2] <= 0) | (points[:, 2] < threshold)] = 0.0
        if confidence == "binary":
            points[:, 2] = points[:, 2] > 0
        written[part.key] = _shortest(points)
    return written


def _shortest(points: np.ndarray) -> list[float]:
    """The shortest decimals that read back as the same float32: 512.3, not 512.29998779296875."""
    return points.ravel().astype(str).astype(np.float64).tolist()
