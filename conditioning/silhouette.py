"""What a body covers, guessed from its joints: a `Figure` made of simple shapes.

Sizes are fractions of the standing height, which is itself estimated from the limbs. Segment
lengths follow Drillis & Contini (1966) as given in Winter, "Biomechanics and Motor Control of Human
Movement"; shoulder width is the distance of the joints that detectors mark, not of the outline.
"""

from dataclasses import dataclass

import numpy as np

from .pose import BODY_NAMES, DEFAULT_THRESHOLD, Person
from .shapes import Capsule, Ellipse, HalfPlane, Hull, Point, Shape

# Back to front: what a later region covers is hidden in an earlier one of the same person.
FIGURE_REGIONS = ("lower", "feet", "upper", "head", "hands")

# (joint, joint, length as a fraction of standing height)
LIMB_LENGTHS = (
    ("neck", "mid_hip", 0.288),
    ("right_shoulder", "left_shoulder", 0.22),
    ("right_shoulder", "right_elbow", 0.186),
    ("left_shoulder", "left_elbow", 0.186),
    ("right_elbow", "right_wrist", 0.146),
    ("left_elbow", "left_wrist", 0.146),
    ("right_hip", "right_knee", 0.245),
    ("left_hip", "left_knee", 0.245),
    ("right_knee", "right_ankle", 0.246),
    ("left_knee", "left_ankle", 0.246),
)
HEAD_LENGTHS = (
    ("nose", "neck", 0.11),
    ("right_ear", "left_ear", 0.085),
    ("right_eye", "left_eye", 0.037),
)
# Limbs look shorter when they point at the camera, never longer: a high quantile is the honest one.
STATURE_QUANTILE = 0.7

TORSO, THIGH, SHANK, HAND = 0.288, 0.245, 0.246, 0.108
SHOULDER_WIDTH, HIP_WIDTH = 0.22, 0.11
NECK_HEIGHT, HIP_HEIGHT, HEAD_HEIGHT = 0.818, 0.53, 0.935  # above the ground
SKULL_HALF_HEIGHT, SKULL_HALF_WIDTH = 0.065, 0.05


@dataclass(frozen=True)
class Margins:
    """How much room regions leave around the bare body.

    Attributes:
        clothes: added to the thickness of limbs and torso, as a fraction of it.
        hair: added to the skull, as a fraction of its size.
        waist: where upper turns into lower: 0 at the hip joints, 1 at the neck.
        min_confidence: joints less certain than this are treated as missing, as in the drawing.
    """

    clothes: float = 0.25
    hair: float = 0.3
    waist: float = 0.15
    min_confidence: float = DEFAULT_THRESHOLD


@dataclass(frozen=True)
class Piece:
    """A shape that belongs to a region; `clip` cuts the part that another piece owns."""

    region: str
    shape: Shape
    clip: HalfPlane | None = None


@dataclass(frozen=True)
class Figure:
    """One person: pieces, estimated standing height, and where it meets the ground.

    Attributes:
        index: position of the person in its frame.
        stature_px: estimated standing height.
        ground_y_px: estimated height of the soles in the picture; a larger one is nearer.
    """

    index: int
    pieces: tuple[Piece, ...]
    stature_px: float
    ground_y_px: float


def figure(person: Person, index: int, width: int, height: int, margins: Margins) -> Figure | None:
    """The figure of a person on a canvas of width x height pixels; None when too little is seen."""
    joints = _joints(person, margins.min_confidence)
    stature = _stature(joints)
    if stature is None:
        return None
    head = _head_centre(joints)
    _complete_torso(joints, head, stature)
    if head is None and "neck" in joints:
        head = joints["neck"] + _up(joints) * (HEAD_HEIGHT - NECK_HEIGHT) * stature
    _extend_legs(joints, stature, width, height)
    pieces = (
        *_trunk(joints, stature, margins),
        *_arms(joints, stature, margins),
        *_legs(joints, stature, margins),
        *_feet(joints, person, stature, margins),
        *_head(joints, person, head, stature, margins),
        *_hands(joints, person, stature, margins),
    )
    return Figure(index, pieces, stature, _ground_y(joints, head, stature)) if pieces else None


def _joints(person: Person, floor: float) -> dict[str, np.ndarray]:
    seen = {
        name: point[:2].astype(np.float64)
        for name, point in zip(BODY_NAMES, person.body, strict=True)
        if point[2] > 0 and point[2] >= floor and np.isfinite(point).all()
    }
    if {"right_shoulder", "left_shoulder"} <= seen.keys():
        seen.setdefault("neck", (seen["right_shoulder"] + seen["left_shoulder"]) / 2)
    if {"right_hip", "left_hip"} <= seen.keys():
        seen["mid_hip"] = (seen["right_hip"] + seen["left_hip"]) / 2
    return seen


def _stature(joints: dict[str, np.ndarray]) -> float | None:
    def estimates(lengths) -> list[float]:
        return [
            float(np.linalg.norm(joints[a] - joints[b])) / fraction
            for a, b, fraction in lengths
            if a in joints and b in joints
        ]

    found = estimates(LIMB_LENGTHS)
    if len(found) < 3:
        found += estimates(HEAD_LENGTHS)
    stature = float(np.quantile(found, STATURE_QUANTILE)) if found else 0.0
    return stature if stature > 1.0 else None


def _head_centre(joints: dict[str, np.ndarray]) -> np.ndarray | None:
    """Mean of the face joints; ears count double, being nearest to the middle of the skull."""
    weights = {"right_ear": 2, "left_ear": 2, "right_eye": 1, "left_eye": 1, "nose": 1}
    seen = [(joints[name], weight) for name, weight in weights.items() if name in joints]
    if not seen:
        return None
    return sum(point * weight for point, weight in seen) / sum(weight for _, weight in seen)


def _unit(vector: np.ndarray, fallback: tuple[float, float]) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-6 else np.array(fallback)


def _up(joints: dict[str, np.ndarray]) -> np.ndarray:
    """Direction from hip to neck, or up in the picture."""
    if "neck" in joints and "mid_hip" in joints:
        return _unit(joints["neck"] - joints["mid_hip"], (0.0, -1.0))
    return np.array((0.0, -1.0))


def _complete_torso(joints: dict[str, np.ndarray], head: np.ndarray | None, stature: float) -> None:
    """A torso that leaves the picture goes on where an upright body would have it."""
    if "mid_hip" not in joints and "neck" in joints:
        one_hip = joints.get("right_hip", joints.get("left_hip"))
        if one_hip is None:
            joints["mid_hip"] = joints["neck"] + _down(joints, head, stature) * TORSO * stature
            _add_pair(joints, "mid_hip", "hip", HIP_WIDTH * stature)
        else:
            joints["mid_hip"] = one_hip
    elif "neck" not in joints and "mid_hip" in joints:
        one_shoulder = joints.get("right_shoulder", joints.get("left_shoulder"))
        if one_shoulder is None:
            joints["neck"] = joints["mid_hip"] - np.array((0.0, TORSO * stature))
            _add_pair(joints, "neck", "shoulder", SHOULDER_WIDTH * stature)
        else:
            joints["neck"] = one_shoulder


def _down(joints: dict[str, np.ndarray], head: np.ndarray | None, stature: float) -> np.ndarray:
    """Where the hips must be: square to the shoulders, as far as these are seen from the front."""
    below = np.array((0.0, 1.0)) if head is None else _unit(joints["neck"] - head, (0.0, 1.0))
    if "right_shoulder" not in joints or "left_shoulder" not in joints:
        return below
    across = joints["left_shoulder"] - joints["right_shoulder"]
    trust = min(1.0, float(np.linalg.norm(across)) / (SHOULDER_WIDTH * stature))
    square = _unit(np.array((-across[1], across[0])), (0.0, 1.0))
    if float(square @ below) < 0.0:
        square = -square
    return _unit(trust * square + (1.0 - trust) * below, (0.0, 1.0))


def _add_pair(joints: dict[str, np.ndarray], middle: str, name: str, width_px: float) -> None:
    up = _up(joints)
    # The person's right is left of us when it faces us; both sides are alike for masks.
    half = np.array((up[1], -up[0])) * width_px / 2
    joints["right_" + name] = joints[middle] + half
    joints["left_" + name] = joints[middle] - half


def _extend_legs(joints: dict[str, np.ndarray], stature: float, width: int, height: int) -> None:
    """A knee or ankle that was not seen because the picture ends there is put outside of it."""
    for side in ("right_", "left_"):
        hip, knee, ankle = side + "hip", side + "knee", side + "ankle"
        if hip in joints and knee not in joints:
            guess = joints[hip] - _up(joints) * THIGH * stature
            if _outside(guess, width, height):
                joints[knee] = guess
        if hip in joints and knee in joints and ankle not in joints:
            along = _unit(joints[knee] - joints[hip], (0.0, 1.0))
            guess = joints[knee] + along * SHANK * stature
            if _outside(guess, width, height):
                joints[ankle] = guess


def _outside(point: np.ndarray, width: int, height: int) -> bool:
    return not (0.0 <= point[0] <= width and 0.0 <= point[1] <= height)


def _xy(point: np.ndarray) -> Point:
    return float(point[0]), float(point[1])


def _capsules(joints, region: str, chain, px: float) -> list[Piece]:
    """Limbs between neighbours of `chain`, a list of (joint, radius as a fraction of height)."""
    return [
        Piece(region, Capsule(_xy(joints[a]), _xy(joints[b]), radius_a * px, radius_b * px))
        for (a, radius_a), (b, radius_b) in zip(chain, chain[1:], strict=False)
        if a in joints and b in joints
    ]


def _trunk(joints: dict[str, np.ndarray], stature: float, margins: Margins) -> list[Piece]:
    names = ("neck", "right_shoulder", "left_shoulder", "mid_hip", "right_hip", "left_hip")
    points = [_xy(joints[name]) for name in names if name in joints]
    if len(points) < 2:
        return []
    hull = Hull.around(points, 0.045 * (1 + margins.clothes) * stature)
    if "neck" not in joints or "mid_hip" not in joints:
        return [Piece("upper", hull)]
    up = _up(joints)
    waist = joints["mid_hip"] + margins.waist * (joints["neck"] - joints["mid_hip"])
    above = HalfPlane(_xy(waist), _xy(-up))
    below = HalfPlane(_xy(waist), _xy(up))
    return [Piece("upper", hull, above), Piece("lower", hull, below)]


def _arms(joints: dict[str, np.ndarray], stature: float, margins: Margins) -> list[Piece]:
    px = (1 + margins.clothes) * stature
    return [
        piece
        for side in ("right_", "left_")
        for piece in _capsules(
            joints,
            "upper",
            [(side + "shoulder", 0.04), (side + "elbow", 0.03), (side + "wrist", 0.026)],
            px,
        )
    ]


def _legs(joints: dict[str, np.ndarray], stature: float, margins: Margins) -> list[Piece]:
    px = (1 + margins.clothes) * stature
    return [
        piece
        for side in ("right_", "left_")
        for piece in _capsules(
            joints,
            "lower",
            [(side + "hip", 0.055), (side + "knee", 0.04), (side + "ankle", 0.03)],
            px,
        )
    ]


def _feet(joints, person: Person, stature: float, margins: Margins) -> list[Piece]:
    pieces = []
    for side, rows in (("left_", slice(0, 3)), ("right_", slice(3, 6))):
        ankle = joints.get(side + "ankle")
        seen = _seen(person.feet, margins.min_confidence, rows)
        if ankle is None:
            continue
        if seen:
            pieces.append(Piece("feet", Hull.around([_xy(ankle), *seen], 0.035 * stature)))
            continue
        knee = joints.get(side + "knee")
        along = _unit(ankle - knee, (0.0, 1.0)) if knee is not None else np.array((0.0, 1.0))
        toe = _xy(ankle + along * 0.04 * stature)
        pieces.append(Piece("feet", Capsule(_xy(ankle), toe, 0.045 * stature, 0.05 * stature)))
    return pieces


def _head(joints, person: Person, head, stature: float, margins: Margins) -> list[Piece]:
    if head is None:
        return []
    neck = joints.get("neck")
    up = _unit(head - neck, (0.0, -1.0)) if neck is not None else np.array((0.0, -1.0))
    room = 1 + margins.hair
    tall, wide = SKULL_HALF_HEIGHT * room * stature, SKULL_HALF_WIDTH * room * stature
    face = [np.array(p) for p in _seen(person.face, margins.min_confidence)]
    face += [joints[name] for name in ("nose", *(s + o for s in ("right_", "left_")
             for o in ("eye", "ear"))) if name in joints]  # fmt: skip
    grow = 1.0
    for point in face:
        offset = point - head
        along, across = float(offset @ up), float(offset @ np.array((up[1], -up[0])))
        # A face larger than the body suggests is believed: drawn heads often are.
        grow = max(grow, room**0.5 * float(np.hypot(along / tall, across / wide)))
    pieces = [Piece("head", Ellipse(_xy(head), _xy(up), tall * grow, wide * grow))]
    if neck is not None:
        throat = Capsule(_xy(neck), _xy(head), 0.035 * stature, 0.035 * stature)
        collar = _xy(neck + 0.35 * (head - neck))
        pieces.append(Piece("head", throat, HalfPlane(collar, _xy(-up))))
        pieces.append(Piece("upper", throat, HalfPlane(collar, _xy(up))))
    return pieces


def _hands(joints, person: Person, stature: float, margins: Margins) -> list[Piece]:
    pieces = []
    for side, points in (("right_", person.right_hand), ("left_", person.left_hand)):
        wrist, elbow = joints.get(side + "wrist"), joints.get(side + "elbow")
        seen = _seen(points, margins.min_confidence)
        if len(seen) >= 3:
            around = seen if wrist is None else [_xy(wrist), *seen]
            pieces.append(Piece("hands", Hull.around(around, 0.025 * stature)))
        elif wrist is not None:
            along = _unit(wrist - elbow, (0.0, 0.0)) if elbow is not None else np.zeros(2)
            tip = _xy(wrist + along * 0.75 * HAND * stature)
            radius = 0.035 * stature if elbow is not None else 0.05 * stature
            pieces.append(Piece("hands", Capsule(_xy(wrist), tip, radius, 0.04 * stature)))
    return pieces


def _seen(points: np.ndarray | None, floor: float, rows: slice = slice(None)) -> list[Point]:
    if points is None:
        return []
    return [
        (float(x), float(y))
        for x, y, c in points[rows]
        if c > 0 and c >= floor and np.isfinite((x, y)).all()
    ]


def _ground_y(joints: dict[str, np.ndarray], head, stature: float) -> float:
    ankles = [joints[name][1] for name in ("right_ankle", "left_ankle") if name in joints]
    if ankles:
        return float(max(ankles)) + 0.039 * stature
    for name, above in (("neck", NECK_HEIGHT), ("mid_hip", HIP_HEIGHT)):
        if name in joints:
            return float(joints[name][1]) + above * stature
    return float(head[1]) + HEAD_HEIGHT * stature if head is not None else 0.0
