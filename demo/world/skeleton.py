"""From joint angles to OpenPose's 18 joints: a small 3-D skeleton seen from the front.

Axes: x to the viewer's right, y up, z towards the viewer; lengths in body heights (standing = 1).
`right` is the person's own right, which is the viewer's left when the person faces the viewer.
"""

from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np

JOINTS = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist",
    "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
)  # fmt: skip
(NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST, R_HIP, R_KNEE, R_ANKLE,
 L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR) = range(18)  # fmt: skip

TORSO = 0.285
SHOULDER_HALF = 0.105
HIP_HALF = 0.062
UPPER_ARM = 0.155
FOREARM = 0.145
THIGH = 0.195
SHIN = 0.185
FOOT = 0.055
SOLE = 0.035
# The head is larger than life, as on a paper doll, so that a face still reads at 128 px.
HEAD = 1.5

Direction = tuple[float, float]


@dataclass(frozen=True)
class Angles:
    """A pose in degrees. A limb part is (out, forward): how far it is lifted sideways away from
    hanging (0 down, 90 level, 180 up) and how far it points to the front."""

    yaw: float = 0.0
    lean: float = 0.0
    bend: float = 0.0
    head_yaw: float = 0.0
    head_roll: float = 0.0
    nod: float = 0.0
    r_arm: Direction = (12.0, 0.0)
    r_fore: Direction = (6.0, 12.0)
    l_arm: Direction = (12.0, 0.0)
    l_fore: Direction = (6.0, 12.0)
    r_thigh: Direction = (5.0, 0.0)
    r_shin: Direction = (4.0, 0.0)
    l_thigh: Direction = (5.0, 0.0)
    l_shin: Direction = (4.0, 0.0)
    lift: float = 0.0
    seat: bool = False
    action: str = "standing"

    def mirrored(self) -> "Angles":
        """The same pose with left and right exchanged."""
        swap = {}
        for part in ("arm", "fore", "thigh", "shin"):
            swap[f"r_{part}"] = getattr(self, f"l_{part}")
            swap[f"l_{part}"] = getattr(self, f"r_{part}")
        return replace(
            self, yaw=-self.yaw, lean=-self.lean, head_yaw=-self.head_yaw,
            head_roll=-self.head_roll, **swap,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pose:
    """A posed person placed in a picture.

    Lengths are in picture heights, origin top left, x to the right, y down.

    points: (18, 2) joints; depth: (18,) towards the viewer; visible: (18,) bool (a far ear is
    hidden, as detectors report it); toes: (2, 2) right and left; unit: standing height of the
    person; facing and head_facing: where body and head look, radians, positive to the viewer's
    right; ground: y of the ground; seat: whether a stool is under the hips.
    """

    points: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    toes: np.ndarray
    unit: float
    facing: float = 0.0
    head_facing: float = 0.0
    ground: float = 0.95
    seat: bool = False
    action: str = "standing"

    def keypoints(self, size: tuple[int, int]) -> np.ndarray:
        """(18, 3) float32: x, y in pixels of a (width, height) picture, confidence 1 or 0."""
        width, height = size
        out = np.zeros((18, 3), np.float32)
        out[:, :2] = self.points * height
        inside = (out[:, 0] >= 0) & (out[:, 0] < width) & (out[:, 1] >= 0) & (out[:, 1] < height)
        out[:, 2] = inside & self.visible
        out[out[:, 2] == 0] = 0
        return out

    def moved(self, scale: float, dx: float, dy: float) -> "Pose":
        """Scaled about the picture's top left corner, then shifted (picture heights)."""
        shift = np.array([dx, dy])
        return replace(
            self, points=self.points * scale + shift, toes=self.toes * scale + shift,
            depth=self.depth * scale, unit=self.unit * scale, ground=self.ground * scale + dy,
        )  # fmt: skip


def _turn_y(v, s, c):
    return (v[0] * c + v[2] * s, v[1], v[2] * c - v[0] * s)


def _turn_z(v, s, c):
    return (v[0] * c + v[1] * s, v[1] * c - v[0] * s, v[2])


def _turn_x(v, s, c):
    return (v[0], v[1] * c - v[2] * s, v[2] * c + v[1] * s)


class _Frame:
    """Rotation by bend (x), then lean (z), then yaw (y)."""

    def __init__(self, yaw: float, lean: float = 0.0, bend: float = 0.0, inner=None):
        self._angles = [(sin(a * pi / 180), cos(a * pi / 180)) for a in (bend, lean, yaw)]
        self._inner = inner

    def __call__(self, x: float, y: float, z: float):
        v = _turn_x((x, y, z), *self._angles[0])
        v = _turn_z(v, *self._angles[1])
        v = _turn_y(v, *self._angles[2])
        return self._inner(*v) if self._inner else v


def _limb(frame, start, side: float, length: float, direction: Direction):
    out, forward = direction[0] * pi / 180, direction[1] * pi / 180
    v = frame(side * sin(out) * cos(forward) * length, -cos(out) * cos(forward) * length,
              sin(forward) * length)  # fmt: skip
    return (start[0] + v[0], start[1] + v[1], start[2] + v[2])


def _add(a, b):
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def joints_3d(angles: Angles) -> tuple[np.ndarray, np.ndarray]:
    """(18, 3) joints and (2, 3) toes in body heights, the middle of the hips at the origin."""
    hips, torso = _Frame(angles.yaw), _Frame(angles.yaw, angles.lean, angles.bend)
    head = _Frame(angles.head_yaw, angles.head_roll, angles.nod, inner=torso)
    neck = torso(0, TORSO, 0)
    centre = _add(_add(neck, torso(0, 0.046, 0)), head(0, 0.088 * HEAD, 0.0))
    points: list = [None] * 18
    toes = []
    points[NECK] = neck
    points[NOSE] = _add(centre, head(0, -0.022 * HEAD, 0.092 * HEAD))
    for index, side, name in ((0, -1, "r"), (3, 1, "l")):
        shoulder = _add(neck, torso(side * SHOULDER_HALF, 0, 0))
        elbow = _limb(torso, shoulder, side, UPPER_ARM, getattr(angles, f"{name}_arm"))
        wrist = _limb(torso, elbow, side, FOREARM, getattr(angles, f"{name}_fore"))
        points[R_SHOULDER + index : R_WRIST + 1 + index] = [shoulder, elbow, wrist]
        hip = hips(side * HIP_HALF, 0, 0)
        knee = _limb(hips, hip, side, THIGH, getattr(angles, f"{name}_thigh"))
        ankle = _limb(hips, knee, side, SHIN, getattr(angles, f"{name}_shin"))
        points[R_HIP + index : R_ANKLE + 1 + index] = [hip, knee, ankle]
        toes.append(_add(ankle, hips(side * 0.018, -0.022, FOOT)))
        first = side > 0
        eye, ear = (side * 0.042, 0.008, 0.085), (side * 0.098, -0.012, 0.0)
        points[R_EYE + first] = _add(centre, head(*(HEAD * v for v in eye)))
        points[R_EAR + first] = _add(centre, head(*(HEAD * v for v in ear)))
    return np.array(points), np.array(toes)


def place(angles: Angles, unit: float, x: float, ground: float) -> Pose:
    """Stand the posed skeleton in a picture: middle of the hips at `x`, lowest foot on `ground`,
    `unit` = standing height (all in picture heights)."""
    points, toes = joints_3d(angles)
    low = min(points[R_ANKLE, 1], points[L_ANKLE, 1], toes[0, 1], toes[1, 1]) - SOLE
    top = np.array([x, ground + low * unit - angles.lift * unit])
    flip = np.array([unit, -unit])
    body, head = angles.yaw * pi / 180, (angles.yaw + angles.head_yaw) * pi / 180
    visible = np.ones(18, bool)
    visible[R_EAR], visible[L_EAR] = head > -0.6, head < 0.6
    visible[R_EYE], visible[L_EYE] = head > -1.25, head < 1.25
    # A head turned to the viewer's right shows the person's right ear, and hides the left one.
    return Pose(
        points=points[:, :2] * flip + top, depth=points[:, 2] * unit, visible=visible,
        toes=toes[:, :2] * flip + top, unit=unit, facing=body, head_facing=head, ground=ground,
        seat=angles.seat, action=angles.action,
    )  # fmt: skip


def fit(angles: Angles, unit: float, x: float, ground: float, aspect: float = 1.0) -> Pose:
    """Like `place`, but shrunk and shifted as far as needed to keep head and hands in view."""
    pose = place(angles, unit, x, ground)
    margin, above = 0.05 * unit, 0.185 * HEAD * unit
    points = pose.points
    top = min(points[R_EAR, 1], points[L_EAR, 1]) - above
    top = min(top, points[[R_WRIST, L_WRIST], 1].min() - margin)
    left, right = points[:, 0].min() - 0.6 * above, points[:, 0].max() + 0.6 * above
    scale = min(1.0, (ground - 0.02) / (ground - top), (aspect - 0.02) / (right - left))
    if scale < 1:
        pose = place(angles, unit * scale, x, ground)
        left, right = x - (x - left) * scale, x + (right - x) * scale
    shift = max(0.0, 0.01 - left) - max(0.0, right - aspect + 0.01)
    return pose if shift == 0 else pose.moved(1.0, shift, 0.0)
