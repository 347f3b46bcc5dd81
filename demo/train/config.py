"""The sizes of the trained models; miniature.modules builds them."""

import os
from dataclasses import replace

from miniature import SHIPPED

# 128 px are 16 x 16 latents: what a CPU can train. With a GPU, TROUPE_TRAIN_SIZE=256 trains the
# same layout at four times the cost per picture.
SIZE_PX = int(os.environ.get("TROUPE_TRAIN_SIZE", "128"))

CONFIG = replace(
    SHIPPED,
    resolution=SIZE_PX,
    channels=SHIPPED.channels if SIZE_PX <= SHIPPED.resolution else (64, 128, 192),
)
# Attributes as `demo.world.attribute_labels` names them, read off text and pictures in training.
ATTRIBUTES: dict[str, tuple[str, ...]] = {}


def attributes() -> dict[str, tuple[str, ...]]:
    """Every attribute with its possible values; "" = there is none (no second colour)."""
    if not ATTRIBUTES:
        from ..world import ACTIONS, palette, specs

        cloth = tuple(palette.CLOTH)
        for side, kinds in (("upper", specs.UPPER_KINDS), ("lower", ("", *specs.LOWER_KINDS))):
            ATTRIBUTES[f"{side}_kind"] = kinds
            ATTRIBUTES[f"{side}_colour"] = ("", *cloth)
            ATTRIBUTES[f"{side}_pattern"] = ("", *specs.PATTERNS)
            ATTRIBUTES[f"{side}_colour2"] = ("", *cloth)
        ATTRIBUTES["hair_colour"] = tuple(palette.HAIR)
        ATTRIBUTES["hair_style"] = specs.HAIR_STYLES
        ATTRIBUTES["mark"] = specs.MARKS
        ATTRIBUTES["skin"] = tuple(palette.SKIN)
        ATTRIBUTES["build"] = specs.BUILDS
        ATTRIBUTES["shoes"] = tuple(palette.SHOES)
        ATTRIBUTES["place"] = (*specs.BACKGROUND_TONES, "plain")
        tones = sorted({tone for tones in specs.BACKGROUND_TONES.values() for tone in tones})
        ATTRIBUTES["tone"] = (*tones, "grey")
        ATTRIBUTES["action"] = ACTIONS
    return ATTRIBUTES


# Which attributes a mentioned part of a caption tells.
TOLD_BY = {
    "build": ("build",),
    "skin": ("skin",),
    "hair": ("hair_colour", "hair_style"),
    "mark": ("mark",),
    "upper": ("upper_kind", "upper_colour", "upper_pattern", "upper_colour2"),
    "lower": ("lower_kind", "lower_colour", "lower_pattern", "lower_colour2"),
    "shoes": ("shoes",),
    "action": ("action",),
    "place": ("place", "tone"),
}
