"""All garments of a person: every outfit is tried on, the one that explains most is read."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from .. import labels as L
from .. import palette
from ..render import Rendered, render
from ..skeleton import Pose
from ..specs import LOWER_KINDS, STUDIO, Attire, Background, Character, Cloth, Scene
from .cloth import fit_cloth, read_cloth, same_cloth
from .colours import background_lab, distance_to, edges, inner, read_colour, size_of

# A shirt and a skirt have twice as many colours to explain a picture with: they must do better than
# a dress by more than this.
_ONE_GARMENT = 0.85


def read_attire(
    picture: np.ndarray, pose: Pose, character: Character, background: Background
) -> Attire:
    """Kinds, colours and patterns of all garments, given who wears them (build, skin) and where.

    A shirt and a skirt of the same cloth are a dress: the world draws no such pair.
    """
    best: tuple[float, Attire] | None = None
    for upper, lower in _outfits():
        guess = Attire(Cloth(upper, "red"), Cloth(lower, "green") if lower else None)
        truth = render(Scene(character, guess, STUDIO), pose, size_of(picture))
        cost, found = _outfit_cost(picture, truth, pose, guess, character, background)
        if lower is None:
            cost *= _ONE_GARMENT
        if best is None or cost < best[0]:
            best = (cost, found)
    assert best is not None
    found = best[1]
    if found.upper.kind == "shirt" and found.lower is not None and found.lower.kind == "skirt":
        dress = replace(found.upper, kind="dress")
        if same_cloth(dress, replace(found.lower, kind="dress")):
            return Attire(dress, None, found.shoes)
    return found


def _outfits() -> list[tuple[str, str | None]]:
    return [(upper, lower) for upper in ("shirt", "coat") for lower in LOWER_KINDS] + [
        ("dress", None)
    ]


def _outfit_cost(picture, truth: Rendered, pose, guess, character, background):
    """Mean squared error of the best explanation of everything below the head."""
    error = np.zeros(picture.shape[:2], np.float32)
    lab = palette.oklab(picture)
    below = _body_window(pose, picture.shape) & ~truth.mask("head")
    error[:] = distance_to(lab, background_lab(background)) ** 2
    skin = palette.oklab(np.array(palette.SKIN[character.skin]))
    limbs = truth.part_mask(L.SKIN_ARM_R, L.SKIN_ARM_L, L.SKIN_LEG_R, L.SKIN_LEG_L, L.HAND_R,
                            L.HAND_L)  # fmt: skip
    error[limbs] = ((lab[limbs] - skin) ** 2).sum(axis=-1)
    shoes = truth.part_mask(L.SHOE_R, L.SHOE_L)
    error[shoes | truth.part_mask(L.TRIM)] = 0
    cloths = []
    for cloth, parts in ((guess.upper, L.UPPER_GARMENT), (guess.lower, L.LOWER_GARMENT)):
        mask = truth.part_mask(*parts)
        found = None
        if cloth is not None and mask.any():
            fit = fit_cloth(picture, inner(mask), pose, cloth.kind in LOWER_KINDS)
            found = read_cloth(picture, mask, pose, cloth.kind)
            error[mask] = 0
            error[inner(mask)] = fit.residual
        cloths.append(found)
    # Outlines are dark whatever the answer; a pixel cannot be worse than plainly wrong.
    rim = ndimage.binary_dilation(edges(truth.parts))
    counted = below & ~rim
    cost = float(np.minimum(error[counted], 0.06).mean()) if counted.any() else 0.0
    return cost, Attire(cloths[0] or guess.upper, cloths[1],
                        read_colour(picture, shoes, palette.SHOES) or "black")  # fmt: skip


def _body_window(pose: Pose, shape) -> np.ndarray:
    """The box around hips and legs and arms, where garments of different kinds differ."""
    height, width = shape[:2]
    points = np.concatenate([pose.points[1:14], pose.toes]) * height
    room = 0.1 * pose.unit * height
    x0, y0 = points.min(axis=0) - room
    x1, y1 = points.max(axis=0) + room
    window = np.zeros((height, width), bool)
    window[max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1] = True
    return window
