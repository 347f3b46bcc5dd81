"""Stick figures for tests: a standing person whose joints can be moved or dropped."""

import numpy as np

from conditioning.pose import BODY_NAMES, Person, PoseFrame

# Joints of a standing body in standing heights, origin at mid-height.
STANDING = {
    "nose": (0.0, -0.415),
    "neck": (0.0, -0.318),
    "right_shoulder": (-0.11, -0.318),
    "right_elbow": (-0.2, -0.16),
    "right_wrist": (-0.26, -0.03),
    "left_shoulder": (0.11, -0.318),
    "left_elbow": (0.2, -0.16),
    "left_wrist": (0.26, -0.03),
    "right_hip": (-0.055, -0.03),
    "right_knee": (-0.07, 0.215),
    "right_ankle": (-0.08, 0.46),
    "left_hip": (0.055, -0.03),
    "left_knee": (0.07, 0.215),
    "left_ankle": (0.08, 0.46),
    "right_eye": (-0.018, -0.436),
    "left_eye": (0.018, -0.436),
    "right_ear": (-0.042, -0.43),
    "left_ear": (0.042, -0.43),
}
HEAD = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
LEGS = ("right_knee", "left_knee", "right_ankle", "left_ankle")


def standing(x: float, y: float, height: float, drop=(), confidence=1.0, **moved) -> Person:
    """A person of `height` px whose middle is at (x, y); `moved` gives joints other places."""
    body = np.zeros((18, 3), np.float32)
    for index, name in enumerate(BODY_NAMES):
        if name not in drop:
            dx, dy = moved.get(name, STANDING[name])
            body[index] = (x + dx * height, y + dy * height, confidence)
    return Person(body)


def dancing(rng: np.random.Generator, x: float, y: float, height: float) -> Person:
    """A person in a random pose: every limb joint thrown about."""
    free = [name for name in BODY_NAMES if "elbow" in name or "wrist" in name or name in LEGS]
    moved = {name: tuple(np.add(STANDING[name], rng.uniform(-0.15, 0.15, 2))) for name in free}
    return standing(x, y, height, **moved)


def frame(*people: Person, width: int = 256, height: int = 256) -> PoseFrame:
    return PoseFrame(tuple(people), width, height)
