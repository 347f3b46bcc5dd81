"""The paper doll: a Pose, a Character and an Attire drawn as labels, back to front."""

from math import cos, hypot, sin

import numpy as np

from . import labels as L
from .canvas import LocalPen, Pen, Point
from .head import draw_back_hair, draw_head
from .skeleton import (
    HEAD,
    L_EAR,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    Pose,
)  # fmt: skip
from .specs import Attire, Character

_GIRTH = {"slim": 0.86, "average": 1.0, "broad": 1.28}


def _mix(a: Point, b: Point, amount: float) -> Point:
    return a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount


class Figure:
    """Draws one person. Lengths below are in body heights and scaled by the pose's unit."""

    def __init__(self, pen: Pen, pose: Pose, character: Character, attire: Attire):
        self.pen, self.pose, self.character, self.attire = pen, pose, character, attire
        self.p: list[Point] = [(float(x), float(y)) for x, y in pose.points]
        self.toes: list[Point] = [(float(x), float(y)) for x, y in pose.toes]
        self.u = pose.unit
        self.girth = _GIRTH[character.build]
        self.hip = _mix(self.p[R_HIP], self.p[L_HIP], 0.5)

    def draw(self) -> None:
        head = self._head_pen()
        back, middle, front = self._arm_layers()
        draw_back_hair(head, self.character, self.pose.head_facing, self.u)
        for side in back:
            self._arm(side)
        legs = sorted((0, 1), key=self._leg_depth)
        seated = [side for side in legs if self._thigh_forward(side)]
        for side in legs:
            if side not in seated:
                self._leg(side)
        self._pelvis()
        if not seated:
            self._lower_cloth()
        self._torso()
        for side in seated:
            self._leg(side)
        if seated:
            self._lower_cloth()
        self._tail()
        for side in middle:
            self._arm(side)
        self._neck()
        draw_head(head, self.character, self.pose.head_facing)
        for side in front:
            self._arm(side)

    # -- order ---------------------------------------------------------------------------------

    def _arm_layers(self) -> tuple[list[int], list[int], list[int]]:
        depth, u = self.pose.depth, self.u
        torso = (depth[NECK] + depth[R_HIP] + depth[L_HIP]) / 3
        layers: tuple[list[int], list[int], list[int]] = ([], [], [])
        for side in (0, 1):
            arm = (depth[R_ELBOW + 3 * side] + depth[R_WRIST + 3 * side]) / 2
            shoulder = depth[R_SHOULDER + 3 * side]
            if (arm + shoulder) / 2 < torso - 0.04 * u:
                layers[0].append(side)
            elif arm > depth[NOSE] - 0.03 * u:
                layers[2].append(side)
            else:
                layers[1].append(side)
        for layer in layers:
            layer.sort(key=lambda side: depth[R_ELBOW + 3 * side])
        return layers

    def _leg_depth(self, side: int) -> float:
        return float(self.pose.depth[R_KNEE + 3 * side] + self.pose.depth[R_ANKLE + 3 * side])

    def _thigh_forward(self, side: int) -> bool:
        depth = self.pose.depth
        return self.pose.seat or depth[R_KNEE + 3 * side] - depth[R_HIP + 3 * side] > 0.13 * self.u

    # -- parts ---------------------------------------------------------------------------------

    def _limb(self, a: Point, b: Point, ra: float, rb: float, label: int) -> None:
        k = self.u * (0.5 + 0.5 * self.girth)
        self.pen.capsule(a, b, ra * k, rb * k, label)

    def _arm(self, side: int) -> None:
        shoulder, elbow, wrist = (self.p[i + 3 * side] for i in (R_SHOULDER, R_ELBOW, R_WRIST))
        skin = L.SKIN_ARM_R + side
        sleeve = L.SLEEVE_R + side
        dx, dy = wrist[0] - elbow[0], wrist[1] - elbow[1]
        length = max(hypot(dx, dy), 0.04 * self.u)
        palm = (wrist[0] + dx / length * 0.022 * self.u, wrist[1] + dy / length * 0.022 * self.u)
        self.pen.circle(*palm, 0.033 * self.u, L.HAND_R + side)
        self._limb(elbow, wrist, 0.030, 0.024, skin)
        if self.attire.upper.kind == "coat":
            self._limb(elbow, wrist, 0.039, 0.036, sleeve)
            self._limb(shoulder, elbow, 0.046, 0.039, sleeve)
        else:
            self._limb(shoulder, elbow, 0.034, 0.030, skin)
            self._limb(shoulder, _mix(shoulder, elbow, 0.62), 0.047, 0.047, sleeve)

    def _leg(self, side: int) -> None:
        hip, knee, ankle = (self.p[i + 3 * side] for i in (R_HIP, R_KNEE, R_ANKLE))
        toe, shoe = self.toes[side], L.SHOE_R + side
        lower = self.attire.lower
        if lower is not None and lower.kind == "trousers":
            leg = L.LEG_R + side
            self._limb(hip, knee, 0.062, 0.050, leg)
            self._limb(knee, _mix(knee, ankle, 0.84), 0.050, 0.044, leg)
            self._shoe(ankle, toe, shoe)
        else:
            skin = L.SKIN_LEG_R + side
            self._limb(hip, knee, 0.050, 0.038, skin)
            self._limb(knee, ankle, 0.038, 0.027, skin)
            self._shoe(ankle, toe, shoe)

    def _shoe(self, ankle: Point, toe: Point, label: int) -> None:
        heel = (ankle[0] - (toe[0] - ankle[0]) * 0.12, ankle[1] + 0.006 * self.u)
        tip = (toe[0] + (toe[0] - ankle[0]) * 0.35, toe[1] + 0.004 * self.u)
        self.pen.capsule(heel, tip, 0.033 * self.u, 0.031 * self.u, label)

    def _pelvis(self) -> None:
        if self.attire.lower is not None:
            a, b = self.p[R_HIP], self.p[L_HIP]
            waist = _mix(self.p[NECK], self.hip, 0.82)
            r = 0.058 * self.girth * self.u
            self.pen.capsule(a, b, r, r, L.LOWER)
            self.pen.capsule(waist, self.hip, 0.07 * self.girth * self.u, r, L.LOWER)

    def _skirt_circles(self, length: float, waist: float, flare: float):
        """Waist and hem corners: the hem lies `length` down the thighs, `flare` beside them."""
        k = self.u * (0.4 + 0.6 * self.girth)
        out = []
        for hip, knee in ((R_HIP, R_KNEE), (L_HIP, L_KNEE)):
            out.append((*_mix(self.hip, self.p[hip], 0.8), waist * k))
            x, y = _mix(self.p[hip], self.p[knee], length)
            out += [(x - flare * k, y, 0.028 * k), (x + flare * k, y, 0.028 * k)]
        return out

    def _lower_cloth(self) -> None:
        lower = self.attire.lower
        if lower is not None and lower.kind == "skirt":
            self.pen.hull(self._skirt_circles(0.95, 0.056, 0.066), L.LOWER)

    def _tail(self) -> None:
        kind = self.attire.upper.kind
        if kind == "dress":
            self.pen.hull(self._skirt_circles(1.0, 0.052, 0.076), L.TAIL)
        elif kind == "coat":
            self.pen.hull(self._skirt_circles(0.36, 0.062, 0.034), L.TAIL)
            self._coat_front()

    def _coat_front(self) -> None:
        """A line down the front with buttons, moved aside when the body turns."""
        side = sin(self.pose.facing) * 0.075 * self.u
        if cos(self.pose.facing) < 0.25:
            return
        neck, hip = self.p[NECK], self.hip
        knees = _mix(self.p[R_KNEE], self.p[L_KNEE], 0.5)
        end = _mix(hip, knees, 0.40)
        points = [(neck[0] + side * 0.6, neck[1]), (hip[0] + side, hip[1]), (end[0] + side, end[1])]
        for a, b in zip(points, points[1:], strict=False):
            self.pen.capsule(a, b, 0.008 * self.u, 0.008 * self.u, L.TRIM)

    def _torso(self) -> None:
        neck, p, u, g = self.p[NECK], self.p, self.u, self.girth
        bottom = 0.86 if self.attire.upper.kind == "shirt" else 1.0
        r_waist, l_waist = (_mix(p[s], _mix(p[h], self.hip, 0.15), bottom)
                            for s, h in ((R_SHOULDER, R_HIP), (L_SHOULDER, L_HIP)))  # fmt: skip
        r_top, l_top = (_mix(p[s], neck, 0.16) for s in (R_SHOULDER, L_SHOULDER))
        r = 0.043 * (0.4 + 0.6 * g) * u
        for a, b in ((r_top, l_top), (r_top, r_waist), (l_top, l_waist), (r_waist, l_waist)):
            self.pen.capsule(a, b, r, r, L.TORSO)
        self.pen.polygon([r_top, l_top, l_waist, r_waist], L.TORSO)
        middle = _mix(neck, self.hip, bottom)
        self.pen.capsule(_mix(neck, self.hip, 0.16), middle, 0.066 * g * u, 0.068 * g * u, L.TORSO)

    def _neck(self) -> None:
        ears = _mix(self.p[R_EAR], self.p[L_EAR], 0.5)
        neck = self.p[NECK]
        aside = sin(self.pose.facing) * 0.012 * self.u
        base = (neck[0] + aside, neck[1] - 0.012 * self.u)
        self.pen.capsule(base, _mix(base, ears, 0.6), 0.034 * self.u, 0.034 * self.u, L.SKIN_HEAD)

    def _head_pen(self) -> LocalPen:
        """The head's frame: origin in its middle, up along the head's axis."""
        r_ear, l_ear, neck = self.p[R_EAR], self.p[L_EAR], self.p[NECK]
        ears = _mix(r_ear, l_ear, 0.5)
        spine = np.array([ears[0] - neck[0], ears[1] - neck[1]])
        across = np.array([l_ear[0] - r_ear[0], l_ear[1] - r_ear[1]])
        sure = min(1.0, float(np.linalg.norm(across)) / (0.12 * self.u))
        up = np.array([across[1], -across[0]]) / max(float(np.linalg.norm(across)), 1e-6) * sure
        # Near profile the ears coincide: the neck then tells where up is.
        up = up + spine / max(float(np.linalg.norm(spine)), 1e-6) * (1.001 - sure)
        up = up / max(float(np.linalg.norm(up)), 1e-6)
        unit = self.u * HEAD
        origin = (ears[0] + up[0] * 0.012 * unit, ears[1] + up[1] * 0.012 * unit)
        return LocalPen(self.pen, origin, (float(up[0]), float(up[1])), unit)
