"""A picture held against the scene it should show."""

from dataclasses import dataclass

import numpy as np

from .. import labels as L
from ..render import render
from ..sample import attribute_labels
from ..skeleton import Pose
from ..specs import Attire, Character, Scene
from .attire import read_attire
from .character import read_character
from .cloth import enough_visible, read_cloth, same_cloth
from .colours import iou, size_of
from .place import read_background, read_person


@dataclass(frozen=True)
class Verdict:
    """What was read, what was wanted (both by the names of `attribute_labels`), and the overlap.

    `right` leaves out garments of which too little shows, and build and action, which are not read.
    """

    read: dict[str, str]
    wanted: dict[str, str]
    right: dict[str, bool]
    person_iou: float


def compare(picture: np.ndarray, scene: Scene, pose: Pose) -> Verdict:
    """Read everything off `picture` (H, W, 3) uint8 that should show `scene` in `pose`."""
    truth = render(scene, pose, size_of(picture))
    character, attire = scene.character, scene.attire
    background = read_background(picture, truth.mask("background"))
    kinds = read_attire(picture, pose, character, scene.background)
    who = read_character(picture, pose, scene.background, attire, character.build)
    cloths, right = {}, {}
    garments = {"upper": (attire.upper, L.UPPER_GARMENT), "lower": (attire.lower, L.LOWER_GARMENT)}
    for name, (cloth, parts) in garments.items():
        mask = truth.part_mask(*parts)
        if cloth is not None and enough_visible(mask, pose):
            cloths[name] = read_cloth(picture, mask, pose, cloth.kind)
            right[f"{name}_cloth"] = same_cloth(cloths[name], cloth)
    seen = Attire(cloths.get("upper") or kinds.upper, cloths.get("lower"), kinds.shoes)
    read = attribute_labels(Scene(who, seen, background), pose.action)
    read["upper_kind"] = kinds.upper.kind
    read["lower_kind"] = kinds.lower.kind if kinds.lower else ""
    wanted = attribute_labels(scene, pose.action)
    for name in ("skin", "hair_colour", "hair_style", "mark", "upper_kind", "lower_kind", "shoes",
                 "place"):  # fmt: skip
        right[name] = read[name] == wanted[name]
    right["tone"] = right["place"] and read["tone"] == wanted["tone"]
    outline = read_person(picture, scene)
    return Verdict(read, wanted, right, iou(outline, truth.mask("person")))


def matches_character(read: Character, wanted: Character) -> bool:
    """Hair colour, hair style and face mark: what makes a character in this world."""
    return (read.hair_colour, read.hair_style, read.mark) == (
        wanted.hair_colour, wanted.hair_style, wanted.mark,
    )  # fmt: skip
