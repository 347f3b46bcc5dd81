"""The control picture of a pose, as openpose ControlNets for SDXL have seen it in training.

Convention (research: OpenPose control pictures; the xinsir model card for its scaling): black
canvas; limbs are filled ellipses with half-axes length / 2 and 4 px at 0.6 of their colour, joints
discs of 4 px at full colour above them; hands are 2 px lines along the hues with blue points, faces
white points. Pictures are drawn at the size of the generation, because resizing one changes the
thickness that the network has learned.
"""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import PoseError
from .model import BODY_LIMBS, HAND_EDGES, MAX_SIDE_PX, Person, PoseFrame
from .raster import disc_spans, ellipse_spans, line_spans, paint
from .transform import Fit, resize_pose

BODY_COLOURS = np.array(
    [
        (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
        (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
        (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
    ],
    dtype=np.uint8,
)  # fmt: skip
LIMB_DIM = 0.6
HAND_COLOURS = np.array(
    [[255 * c for c in colorsys.hsv_to_rgb(i / len(HAND_EDGES), 1, 1)] for i in range(20)]
).astype(np.uint8)
HAND_POINT_COLOUR = (0, 0, 255)
FACE_POINT_COLOUR = (255, 255, 255)

# All of them in one palette, and where each group begins in it.
_PALETTE = np.concatenate(
    [
        BODY_COLOURS,
        (BODY_COLOURS * LIMB_DIM).astype(np.uint8),
        HAND_COLOURS,
        np.array([HAND_POINT_COLOUR, FACE_POINT_COLOUR], dtype=np.uint8),
    ]
)
_JOINT, _LIMB, _FINGER, _HAND_POINT, _FACE_POINT = 0, 18, 36, 56, 57

STICK_PX = 4  # half-width of a limb and radius of a joint, before the scale of the style
HAND_LINE_PX = 2.0
HAND_POINT_PX = 4
FACE_POINT_PX = 3
# Trained on pictures made of whole pixels and degrees whose outlines count as inside. These put
# our spans on the same pixels; found by comparing with such pictures, see tests/parity.
_PIXEL_HALF = 0.5
_OUTLINE_PX = np.array([0.75, 0.6])  # along and across a stick
_LINE_OUTLINE_PX = 1.0

_LIMBS = np.array(BODY_LIMBS)
_HAND_EDGES = np.array(HAND_EDGES)
# Ankle to both toes and the heel, in the ankle's colour: (ankle of the body, point of the feet).
_FOOT_LINES = np.array([(13, 0), (13, 1), (13, 2), (10, 3), (10, 4), (10, 5)])


@dataclass(frozen=True)
class PoseStyle:
    """How thick body sticks and joints are: (below this longer side in px, factor), in order."""

    name: str
    help: str
    factors: tuple[tuple[float, int], ...]

    def factor(self, width: int, height: int) -> int:
        return next(factor for limit, factor in self.factors if max(width, height) < limit)


STYLES = {
    style.name: style
    for style in (
        PoseStyle(
            "xinsir",
            "sticks and joints grow with the picture, as xinsir's SDXL ControlNets expect",
            ((500, 1), (1000, 2), (2000, 3), (3000, 4), (4000, 5), (5000, 6), (float("inf"), 7)),
        ),
        PoseStyle(
            "openpose",
            "4 px sticks and joints at any size, as thibaud's and the SD 1.5 ControlNets expect",
            ((float("inf"), 1),),
        ),
    )
}
DEFAULT_STYLE = "xinsir"
# Between the scores that OpenPose draws (0.05 body, 0.2 hands) and those of newer networks (0.3).
DEFAULT_THRESHOLD = 0.2


def draw_pose(
    frame: PoseFrame,
    width: int = 0,
    height: int = 0,
    style: str = DEFAULT_STYLE,
    hands: bool = True,
    face: bool = True,
    feet: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
    fit: Fit = "contain",
) -> np.ndarray:
    """The control picture of `frame`: (height, width, 3) uint8 RGB on black.

    Args:
        width, height: of the picture in pixels; 0 takes the side of the frame's canvas.
        style: a name in `STYLES`.
        hands, face, feet: draw these parts too. No public ControlNet was trained with feet.
        threshold: leave out points with a confidence below it; absent points are never drawn.
        fit: how a canvas of other proportions is placed, see `fit_matrix`.

    Raises:
        PoseError: unknown `style` or `fit`, a side above 16384.
    """
    if style not in STYLES:
        raise PoseError(f"Unknown pose style {style!r}: use one of {', '.join(STYLES)}.")
    width, height = width or frame.width, height or frame.height
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise PoseError(f"A picture side must be 1 to {MAX_SIDE_PX}, got {width} x {height}.")
    frame = resize_pose(frame, width, height, fit)
    stick = STICK_PX * STYLES[style].factor(width, height)
    spans: list[np.ndarray] = []
    for person in frame.people:
        spans += _body(person, stick, threshold, height, feet)
        if hands:
            for points in (person.left_hand, person.right_hand):
                spans += _hand(points, threshold, height)
        if face and person.face is not None:
            pixels = _pixels(person.face)[_seen(person.face, threshold)]
            spans.append(disc_spans(pixels, FACE_POINT_PX, _FACE_POINT))
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    if spans:
        paint(canvas, spans, _PALETTE)
    return canvas


def draw_poses(
    frames: Iterable[PoseFrame], width: int = 0, height: int = 0, **options
) -> np.ndarray:
    """`draw_pose` for a batch: (N, height, width, 3) uint8, all in the size of the first frame.

    Raises:
        PoseError: no frames, or as `draw_pose`.
    """
    frames = tuple(frames)
    if not frames:
        raise PoseError("There are no pose frames to draw.")
    width, height = width or frames[0].width, height or frames[0].height
    pictures = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        picture[:] = draw_pose(frame, width, height, **options)
    return pictures


def _seen(points: np.ndarray, threshold: float) -> np.ndarray:
    return (points[:, 2] > 0) & (points[:, 2] >= threshold)


def _pixels(points: np.ndarray) -> np.ndarray:
    """(K, 2): the pixels that hold the points."""
    return np.floor(points[:, :2]).astype(np.int64)


def _sticks(
    a: np.ndarray, b: np.ndarray, half_width: float, colours: np.ndarray, height: int
) -> np.ndarray:
    """Filled ellipses from points `a` to points `b`, (K, 3) each."""
    a, b = a[:, :2].astype(np.float64), b[:, :2].astype(np.float64)
    delta = a - b
    half_length = np.floor(np.hypot(delta[:, 0], delta[:, 1]) / 2)
    angle = np.radians(np.trunc(np.degrees(np.arctan2(delta[:, 1], delta[:, 0]))))
    directions = np.column_stack([np.cos(angle), np.sin(angle)])
    axes = np.column_stack([half_length, np.full(len(angle), half_width)]) + _OUTLINE_PX
    centres = np.floor((a + b) / 2) + _PIXEL_HALF
    return ellipse_spans(centres, axes, directions, colours, height)


def _body(
    person: Person, stick: int, threshold: float, height: int, feet: bool
) -> list[np.ndarray]:
    body = person.body
    seen = _seen(body, threshold)
    (limbs,) = np.nonzero(seen[_LIMBS].all(axis=1))
    a, b = body[_LIMBS[limbs, 0]], body[_LIMBS[limbs, 1]]
    spans = [_sticks(a, b, stick, _LIMB + limbs, height)]
    if feet and person.feet is not None:
        lines = _FOOT_LINES[seen[_FOOT_LINES[:, 0]] & _seen(person.feet, threshold)]
        ankles, b = lines[:, 0], person.feet[lines[:, 1]]
        spans += [_sticks(body[ankles], b, stick, _LIMB + ankles, height)]
        spans += [disc_spans(_pixels(b), stick, _JOINT + ankles)]
    (joints,) = np.nonzero(seen)
    return [*spans, disc_spans(_pixels(body[joints]), stick, _JOINT + joints)]


def _hand(points: np.ndarray | None, threshold: float, height: int) -> list[np.ndarray]:
    if points is None:
        return []
    seen, pixels = _seen(points, threshold), _pixels(points)
    (edges,) = np.nonzero(seen[_HAND_EDGES].all(axis=1))
    ends = pixels[_HAND_EDGES[edges]] + _PIXEL_HALF
    thickness = HAND_LINE_PX + _LINE_OUTLINE_PX
    lines = line_spans(ends[:, 0], ends[:, 1], thickness, _FINGER + edges, height)
    return [lines, disc_spans(pixels[seen], HAND_POINT_PX, _HAND_POINT)]
