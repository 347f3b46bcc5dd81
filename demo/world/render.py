"""From a Scene and a Pose to a picture with its exact truth."""

from dataclasses import dataclass
from functools import lru_cache
from math import hypot

import numpy as np

from . import labels as L
from . import palette
from .backgrounds import PALETTES, draw_background, draw_stool
from .canvas import PERSON_END, SHADE, Pen, develop
from .figure import Figure
from .patterns import second_colour_mask
from .skeleton import L_ANKLE, L_HIP, NECK, R_ANKLE, R_HIP, Pose
from .specs import Attire, Character, Cloth, Scene

_LINE = 1 / 150  # outline width in picture heights


@dataclass(frozen=True, eq=False)
class Rendered:
    """A picture and what is where in it.

    picture: (H, W, 3) uint8 RGB; keypoints: (18, 3) float32 x, y in pixels and confidence;
    regions: (H, W) uint8 index into labels.REGIONS; parts: (H, W) uint8, labels.PART values.
    """

    picture: np.ndarray
    keypoints: np.ndarray
    regions: np.ndarray
    parts: np.ndarray

    def mask(self, region: str) -> np.ndarray:
        """(H, W) bool of one region; "person" is everything but the background."""
        if region == "person":
            return self.regions != 0
        return self.regions == L.REGIONS.index(region)

    def part_mask(self, *parts: int) -> np.ndarray:
        """(H, W) bool where one of the given labels is visible."""
        return np.isin(self.parts, parts)


def render(
    scene: Scene,
    pose: Pose | None,
    size: int | tuple[int, int] = 128,
    supersample: int | None = None,
) -> Rendered:
    """Draw a scene with its person in `pose`, or the empty background when `pose` is None.

    Args:
        scene: character, attire and background.
        pose: placed in picture heights, so one pose fits every size.
        size: pixels, (width, height) or the edge of a square.
        supersample: samples per pixel and axis; chosen by size when None.
    """
    width, height = (size, size) if isinstance(size, int) else size
    factor = supersample or (3 if height < 400 else 2)
    pen = Pen((width, height), factor)
    draw_background(pen, scene.background)
    if pose is not None and pose.seat:
        _seat(pen, pose)
    if pose is not None:
        Figure(pen, pose, scene.character, scene.attire).draw()
    picture = pen.labels()
    if pose is not None:
        if scene.background.kind != "plain":
            _cast_shadow(picture, pose, pen.scale)
        person = _person_window(picture)
        _apply_patterns(picture, pose, scene.attire, pen.scale)
        _outline(picture[person], max(1, round(_LINE * pen.scale)))
    middle = picture[factor // 2 :: factor, factor // 2 :: factor]
    return Rendered(
        picture=develop(picture, _colour_table(scene), factor),
        keypoints=pose.keypoints((width, height)) if pose else np.zeros((18, 3), np.float32),
        regions=L.REGION[middle],
        parts=L.PART[middle],
    )


def _seat(pen: Pen, pose: Pose) -> None:
    hip = (pose.points[R_HIP] + pose.points[L_HIP]) / 2
    draw_stool(pen, hip[0], hip[1] + 0.075 * pose.unit, pose.ground, pose.unit)


def _cast_shadow(picture: np.ndarray, pose: Pose, scale: float) -> None:
    """Shade the ground in an ellipse under the feet, where the background is visible."""
    feet = pose.points[[R_ANKLE, L_ANKLE]]
    x, y = float(feet[:, 0].mean()), pose.ground
    half = float(abs(feet[0, 0] - feet[1, 0])) / 2 + 0.13 * pose.unit
    flat = 0.028 * pose.unit
    rows, columns = picture.shape
    top, bottom = max(0, int((y - flat) * scale)), min(rows, int((y + flat) * scale) + 1)
    left, right = max(0, int((x - half) * scale)), min(columns, int((x + half) * scale) + 1)
    if top >= bottom or left >= right:
        return
    v = ((np.arange(top, bottom) + 0.5) / scale - y) / flat
    u = ((np.arange(left, right) + 0.5) / scale - x) / half
    window = picture[top:bottom, left:right]
    inside = (v[:, None] ** 2 + u[None, :] ** 2 < 1) & (window >= PERSON_END)
    window[inside] |= SHADE


def _apply_patterns(picture: np.ndarray, pose: Pose, attire: Attire, scale: float) -> None:
    neck = pose.points[NECK]
    hip = (pose.points[R_HIP] + pose.points[L_HIP]) / 2
    _pattern(picture, attire.upper, L.UPPER_GARMENT, neck, hip, pose.unit, scale)
    if attire.lower is not None:
        # Trousers and skirts hang: their pattern stays level however the body leans.
        below = hip + np.array([0.0, 1.0])
        _pattern(picture, attire.lower, L.LOWER_GARMENT, hip, below, pose.unit, scale)


def _pattern(picture, cloth: Cloth, parts, origin, down, unit: float, scale: float) -> None:
    if cloth.pattern == "plain":
        return
    mask = (picture >= min(parts)) & (picture <= max(parts))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    x = (np.arange(columns[0], columns[-1] + 1, dtype=np.float32) + 0.5) / scale
    y = (np.arange(rows[0], rows[-1] + 1, dtype=np.float32) + 0.5) / scale
    dx, dy = float(down[0] - origin[0]), float(down[1] - origin[1])
    length = max(hypot(dx, dy), 1e-6)
    second = second_colour_mask(
        cloth.pattern, x, y, (float(origin[0]), float(origin[1])), (dx / length, dy / length), unit
    )
    picture[window][second & mask[window]] |= L.SECOND


def _person_window(picture: np.ndarray) -> tuple[slice, slice]:
    """The smallest window that holds the person, with a sample to spare."""
    person = picture < PERSON_END
    rows, columns = np.flatnonzero(person.any(axis=1)), np.flatnonzero(person.any(axis=0))
    if rows.size == 0:
        return slice(0, 0), slice(0, 0)
    return (slice(max(rows[0] - 1, 0), rows[-1] + 2),
            slice(max(columns[0] - 1, 0), columns[-1] + 2))  # fmt: skip


def _outline(picture: np.ndarray, width: int) -> None:
    """Shade the rim of every part of the person, `width` samples wide."""
    if picture.size == 0:
        return
    group = L.GROUP[picture]
    ink = np.zeros(picture.shape, bool)
    down = group[width:] != group[:-width]
    ink[width:] |= down
    ink[:-width] |= down & (group[width:] == 0)
    right = group[:, width:] != group[:, :-width]
    ink[:, width:] |= right
    ink[:, :-width] |= right & (group[:, width:] == 0)
    ink &= group != 0
    picture |= ink.view(np.uint8) << 7


@lru_cache(maxsize=256)
def _background_table(kind: str, tone: str) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    for index, colour in enumerate(PALETTES[kind, tone]):
        table[L.BACKGROUND + index] = colour
        table[(L.BACKGROUND + index) | SHADE] = palette.shade(colour, 0.80)
    return table


def _colour_table(scene: Scene) -> np.ndarray:
    """(256, 3) uint8: the colour of every label."""
    table = _background_table(scene.background.kind, scene.background.tone).copy()
    for label, colour in _person_colours(scene.character, scene.attire):
        table[label] = colour
        table[label | SHADE] = palette.shade(colour, 0.55)
    return table


def _person_colours(character: Character, attire: Attire):
    skin = palette.MANNEQUIN if character.mannequin else palette.SKIN[character.skin]
    hair = palette.HAIR[character.hair_colour]
    for label in range(L.SKIN_HEAD, L.SKIN_LEG_L + 1):
        yield label, skin
    yield L.EAR, skin
    for label in (*L.HAIR_PARTS, L.BEARD):
        yield label, hair
    yield L.EYE, palette.INK
    yield L.MOUTH, palette.MOUTH
    yield L.CHEEK, tuple((2 * s + c) // 3 for s, c in zip(skin, (250, 60, 90), strict=True))
    yield L.MARK, palette.GLASSES
    shoes = palette.SHOES[attire.shoes]
    yield L.SHOE_R, shoes
    yield L.SHOE_L, shoes
    upper, lower = attire.upper, attire.lower
    yield L.TRIM, palette.shade(palette.CLOTH[upper.colour], 0.55)
    for cloth, labels in ((upper, L.UPPER_GARMENT), (lower, L.LOWER_GARMENT)):
        if cloth is not None:
            for label in labels:
                yield label, palette.CLOTH[cloth.colour]
                yield label | L.SECOND, palette.CLOTH[cloth.colour2 or cloth.colour]
