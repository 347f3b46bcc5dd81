"""Where the person is, and in front of what."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

from .. import palette
from ..backgrounds import PALETTES
from ..render import render
from ..specs import Background, Scene
from .colours import background_lab, distance_to, inner, shaded

_ROWS = 8


def read_background(picture: np.ndarray, mask: np.ndarray) -> Background:
    """Kind and tone of what shows in `mask` (H, W) bool; the layout is not read."""
    visible = inner(mask, 2)
    visible[::2] = visible[:, ::2] = False  # a quarter of the pixels is plenty
    lab = palette.oklab(picture)[visible]
    rows = np.nonzero(visible)[0] * _ROWS // picture.shape[0]
    best, lowest = ("plain", "grey"), np.inf
    for key, (colours, profile) in _background_models().items():
        near = np.minimum(np.linalg.norm(lab[:, None] - colours[None], axis=2).min(axis=1), 0.15)
        # Colours decide between palettes, the mean colour per row between kinds of place.
        row_error = 0.0
        for row in range(_ROWS):
            here = rows == row
            if here.sum() > 20:
                row_error += float(np.linalg.norm(lab[here].mean(axis=0) - profile[row])) / _ROWS
        cost = float(near.mean()) + 0.5 * row_error
        if cost < lowest:
            best, lowest = key, cost
    return Background(*best)


@lru_cache(maxsize=1)
def _background_models() -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Per kind and tone: its colours (8, 3) and its mean colour per row band (8, 3), in OKLab."""
    models = {}
    for kind, tone in PALETTES:
        places = [Scene(background=Background(kind, tone, layout)) for layout in range(12)]
        lab = np.mean([palette.oklab(render(p, None, 48).picture) for p in places], axis=0)
        profile = lab.reshape(_ROWS, -1, 48, 3).mean(axis=(1, 2))
        models[kind, tone] = (palette.oklab(np.array(PALETTES[kind, tone])), profile)
    return models


def read_person(picture: np.ndarray, scene: Scene) -> np.ndarray:
    """(H, W) bool: where the person is, told from the known background by colour alone."""
    lab = palette.oklab(picture)
    behind = background_lab(scene.background)
    # A cast over the whole picture shows in the background, which is known exactly.
    offsets = lab[..., None, :] - behind
    nearest = np.linalg.norm(offsets, axis=-1).argmin(axis=-1)
    offset = np.take_along_axis(offsets, nearest[..., None, None], axis=2)[:, :, 0]
    close = np.linalg.norm(offset, axis=-1) < 0.06
    lab = lab - (np.median(offset[close], axis=0) if close.sum() > 100 else 0)
    margin = distance_to(lab, behind) - distance_to(lab, _person_lab(scene))
    scale = picture.shape[0] / 128
    margin = ndimage.gaussian_filter(np.clip(margin, -0.08, 0.08), 0.8 * scale)
    mask = _without_specks(margin > 0, 0.02)
    # Small holes are outlines and buttons; large ones are the gap between an arm and the body.
    holes, count = ndimage.label(~mask)
    areas = ndimage.sum_labels(~mask, holes, range(1, count + 1))
    small = np.flatnonzero(areas < 0.002 * mask.size) + 1
    return mask | np.isin(holes, small)


def _without_specks(mask: np.ndarray, share: float) -> np.ndarray:
    """Only the connected parts that have at least `share` of the area of the largest."""
    found, count = ndimage.label(mask)
    if count == 0:
        return mask
    areas = ndimage.sum_labels(mask, found, range(1, count + 1))
    return np.isin(found, np.flatnonzero(areas >= share * areas.max()) + 1)


def _person_lab(scene: Scene) -> np.ndarray:
    """The colours of the person, from full to outline: blur mixes a colour with its outline."""
    attire = scene.attire
    colours = [palette.SKIN[scene.character.skin], palette.HAIR[scene.character.hair_colour],
               palette.SHOES[attire.shoes], palette.INK]  # fmt: skip
    for cloth in (attire.upper, attire.lower):
        if cloth is not None:
            colours += [palette.CLOTH[name] for name in (cloth.colour, cloth.colour2) if name]
    return shaded(colours)
