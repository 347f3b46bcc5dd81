"""A short dance as OpenPose keypoints: forward kinematics of a paper doll, periodic in time."""

import json
import math
from pathlib import Path

# Bone lengths in units of the body's height, nose to ankle about 0.88.
SHOULDER, HIP, TORSO = 0.105, 0.065, 0.29
UPPER_ARM, FOREARM, THIGH, SHIN = 0.165, 0.145, 0.235, 0.235
NECK, EYE, EAR = 0.115, 0.022, 0.045


def _along(start: tuple[float, float], length: float, degrees: float) -> tuple[float, float]:
    """The end of a bone; 0 degrees points down, positive turns toward larger x."""
    angle = math.radians(degrees)
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def body_at(phase: float) -> list[tuple[float, float]]:
    """The 18 BODY_18 joints at `phase` (one turn = one full cycle), in units of the body's height.

    The origin is the point on the floor below the hips' mean position; y grows downward.
    """
    turn = 2 * math.pi * phase
    sway, beat = math.sin(turn), math.sin(2 * turn)
    lean = 7 * sway
    hips = (0.045 * sway, -0.475 - 0.018 * beat)
    neck = _along(hips, TORSO, 180 - lean)
    tilt = math.radians(-lean)
    across = (math.cos(tilt), -math.sin(tilt))

    def beside(center: tuple[float, float], reach: float) -> tuple[float, float]:
        return center[0] + reach * across[0], center[1] + reach * across[1]

    r_shoulder, l_shoulder = beside(neck, -SHOULDER), beside(neck, SHOULDER)
    r_hip, l_hip = beside(hips, -HIP), beside(hips, HIP)
    r_elbow = _along(r_shoulder, UPPER_ARM, -75 - 45 * sway)
    r_wrist = _along(r_elbow, FOREARM, -150 - 30 * beat)
    l_elbow = _along(l_shoulder, UPPER_ARM, 75 - 45 * sway)
    l_wrist = _along(l_elbow, FOREARM, 150 - 30 * beat)
    r_knee = _along(r_hip, THIGH, -12 - 16 * max(0.0, sway))
    r_ankle = _along(r_knee, SHIN, -4 + 34 * max(0.0, sway))
    l_knee = _along(l_hip, THIGH, 12 + 16 * max(0.0, -sway))
    l_ankle = _along(l_knee, SHIN, 4 - 34 * max(0.0, -sway))
    nose = _along(neck, NECK, 180 - lean - 6 * beat)
    r_eye, l_eye = (nose[0] - EYE, nose[1] - EYE), (nose[0] + EYE, nose[1] - EYE)
    r_ear, l_ear = (nose[0] - EAR, nose[1] - EYE / 2), (nose[0] + EAR, nose[1] - EYE / 2)
    return [
        nose,
        neck,
        r_shoulder,
        r_elbow,
        r_wrist,
        l_shoulder,
        l_elbow,
        l_wrist,
        r_hip,
        r_knee,
        r_ankle,
        l_hip,
        l_knee,
        l_ankle,
        r_eye,
        l_eye,
        r_ear,
        l_ear,
    ]


def keypoint_frames(
    count: int,
    size: int,
    scale: float = 0.86,
    center: float = 0.5,
    floor: float = 0.95,
    cycles: float = 1.0,
    start: float = 0.0,
) -> list[dict]:
    """`count` POSE_KEYPOINT frames on a square canvas of `size` pixels.

    `scale` is the body's height, `center` and `floor` the place of its feet, as parts of the
    canvas; a floor beyond 1 makes a closer shot. `cycles` turns of the dance are spread over
    the frames.
    """
    frames = []
    for index in range(count):
        joints = body_at(start + cycles * index / count)
        flat = []
        for x, y in joints:
            x_px, y_px = size * (center + scale * x), size * (floor + scale * y)
            flat += [round(x_px, 3), round(y_px, 3), 1.0]
        person = {
            "pose_keypoints_2d": flat,
            "face_keypoints_2d": None,
            "hand_left_keypoints_2d": None,
            "hand_right_keypoints_2d": None,
        }
        frames.append({"people": [person], "canvas_width": size, "canvas_height": size})
    return frames


def write_frames(path: Path, frames: list[dict]) -> None:
    path.write_text(json.dumps(frames, separators=(",", ":")) + "\n", encoding="ascii")
