"""What a pose is: people on a canvas, in pixels, with the confidence each point really has.

Coordinates are continuous: x runs from 0 at the left edge of the canvas to `width` at its right
edge, so pixel i covers [i, i + 1) and resizing a pose is a plain multiplication.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import PoseError

MAX_SIDE_PX = 16384  # ComfyUI's own bound for a picture side

BODY_NAMES = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

FEET_NAMES = (
    "left_big_toe", "left_small_toe", "left_heel",
    "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip

# The 17 limbs of BODY_18 in drawing order; limb i takes colour i, joint i takes colour i.
BODY_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# A hand is the wrist followed by four points per finger, thumb first.
HAND_EDGES = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1)
    for finger in range(5)
    for joint in range(4)
)


@dataclass(frozen=True)
class Part:
    """One array of a person: our field name, its OpenPose JSON key, how many points it has."""

    field: str
    key: str
    points: int


PARTS = (
    Part("body", "pose_keypoints_2d", 18),
    Part("face", "face_keypoints_2d", 70),
    Part("left_hand", "hand_left_keypoints_2d", 21),
    Part("right_hand", "hand_right_keypoints_2d", 21),
    Part("feet", "foot_keypoints_2d", 6),
)


@dataclass(frozen=True, eq=False)
class Person:
    """One person: arrays of [x_px, y_px, confidence 0..1]; a missing point is 0, 0, 0.

    The arrays are float32 and read-only. Right and left are the person's own.

    Args:
        body: (18, 3) in the order of `BODY_NAMES` (OpenPose BODY_18).
        face: (70, 3) iBUG 68 points and the two pupils, or None.
        left_hand, right_hand: (21, 3), wrist first, or None.
        feet: (6, 3) in the order of `FEET_NAMES`, or None.

    Raises:
        PoseError: an array has another shape.
    """

    body: np.ndarray
    face: np.ndarray | None = None
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    feet: np.ndarray | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            points = getattr(self, part.field)
            if points is None and part.field != "body":
                continue
            array = np.array(points, dtype=np.float32)
            if array.shape != (part.points, 3):
                raise PoseError(f"{part.field} must be ({part.points}, 3), got {array.shape}.")
            array.flags.writeable = False
            object.__setattr__(self, part.field, array)

    def parts(self) -> Iterator[tuple[Part, np.ndarray]]:
        """The arrays that are present, body first."""
        for part in PARTS:
            points = getattr(self, part.field)
            if points is not None:
                yield part, points


@dataclass(frozen=True, eq=False)
class PoseFrame:
    """The people of one picture of `width` x `height` pixels.

    Raises:
        PoseError: a side is not between 1 and 16384.
    """

    people: tuple[Person, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE_PX and 1 <= self.height <= MAX_SIDE_PX):
            raise PoseError(
                f"A pose canvas must be 1 to {MAX_SIDE_PX} pixels a side, "
                f"got {self.width} x {self.height}."
            )
