"""Skin, hair and face mark: each style and mark is drawn on and compared."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from .. import labels as L
from .. import palette
from ..render import Rendered, render
from ..skeleton import Pose
from ..specs import HAIR_STYLES, MARKS, STUDIO, Attire, Background, Character, Scene
from .colours import (
    background_lab,
    distance_to,
    inner,
    name_colour,
    read_colour,
    shaded,
    size_of,
)

_SOFT = 0.7  # expected blur of a picture in pixels
_FACE_MOVES = 0.025  # how far a face may be from where the pose has it, in body heights


def read_character(
    picture: np.ndarray, pose: Pose, background: Background, attire: Attire,
    build: str = "average",
) -> Character:  # fmt: skip
    """Skin, hair and face mark. Build is taken as given: a centimetre of girth is no identity."""

    def view(**looks: str) -> Rendered:
        who = Character(build=build, **looks)
        return render(Scene(who, attire, STUDIO), pose, size_of(picture))

    views = {style: view(hair_style=style) for style in HAIR_STYLES}
    marked = [view(mark=mark) for mark in ("beard", "glasses", "eyepatch")]
    bare = (L.SKIN_HEAD, L.EAR, L.HAND_R, L.HAND_L, *range(L.SKIN_ARM_R, L.SKIN_LEG_L + 1))
    always = np.logical_and.reduce([one.part_mask(*bare) for one in (*views.values(), *marked)])
    skin = _read_skin(picture, always)
    shared = np.logical_and.reduce([one.part_mask(*L.HAIR_PARTS) for one in views.values()])
    colour = read_colour(picture, shared, palette.HAIR)
    style = _read_style(picture, views, colour, skin, attire, background)
    person = Character(skin, colour, style, "none", build)
    return replace(person, mark=_read_mark(picture, pose, person, attire))


def _read_skin(picture: np.ndarray, mask: np.ndarray) -> str:
    """From the brighter half of the bare skin: blur mixes the rest with outlines and features."""
    pixels = picture[inner(mask)]
    if len(pixels) == 0:
        return next(iter(palette.SKIN))
    light = pixels.sum(axis=1, dtype=np.int64)
    return name_colour(np.median(pixels[light >= np.median(light)], axis=0), palette.SKIN)


def _read_style(picture, views: dict[str, Rendered], colour, skin, attire, background) -> str:
    """The style whose hair covers what looks like hair of this colour."""
    others = [palette.SKIN[skin], palette.CLOTH[attire.upper.colour]]
    if attire.upper.colour2:
        others.append(palette.CLOTH[attire.upper.colour2])
    lab = palette.oklab(picture)
    other = np.minimum(distance_to(lab, shaded(others)),
                       distance_to(lab, background_lab(background)))  # fmt: skip
    looks = np.clip((other - distance_to(lab, shaded([palette.HAIR[colour]]))) / 0.06, -1, 1)
    masks = {style: view.part_mask(*L.HAIR_PARTS) for style, view in views.items()}
    # Only where the styles differ is there anything to learn; soft, because pictures are.
    differ = np.logical_or.reduce(list(masks.values()))
    differ &= ~np.logical_and.reduce(list(masks.values()))
    soft = {style: ndimage.gaussian_filter(mask.astype(np.float32), _SOFT) * 2 - 1
            for style, mask in masks.items()}  # fmt: skip
    scores = {style: -float(((looks - want)[differ] ** 2).mean()) for style, want in soft.items()}
    return max(scores, key=lambda style: scores[style])


def _read_mark(picture, pose: Pose, person: Character, attire: Attire) -> str:
    """The mark whose drawn face is nearest to the face in the picture, which may have moved."""
    views = {mark: render(Scene(replace(person, mark=mark), attire, STUDIO), pose, size_of(picture))
             for mark in MARKS}  # fmt: skip
    face = np.isin(L.GROUP[views["none"].parts], (L.SKIN_HEAD,))
    face = inner(face & views["none"].mask("head"))
    lab = ndimage.gaussian_filter(palette.oklab(picture), (0.6, 0.6, 0))
    reach = round(_FACE_MOVES * pose.unit * picture.shape[0])
    moves = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    moved = np.stack([np.roll(lab, move, (0, 1))[face] for move in moves])
    costs = {}
    for mark, view in views.items():
        drawn = ndimage.gaussian_filter(palette.oklab(view.picture), (0.6, 0.6, 0))[face]
        costs[mark] = float(((moved - drawn) ** 2).sum(axis=2).mean(axis=1).min())
    return min(costs, key=lambda mark: costs[mark])
