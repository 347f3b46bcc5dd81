"""The measuring instruments: read attributes off any picture of the world, drawn or generated.

A reader is given the picture and the pose (and what it may take for granted), draws what each
possible answer would look like there, and returns the answer that fits best. Colours are fitted
freely first and named afterwards, so a picture that is slightly off still reads right.

`colours` holds what all share; `cloth` reads one garment, `attire` all of them, `character` who it
is, `place` the background and the person's outline. `compare` holds a picture against its scene.
"""

from .attire import read_attire
from .character import read_character
from .cloth import enough_visible, read_cloth, same_cloth
from .colours import iou, read_colour
from .compare import Verdict, compare
from .place import read_background, read_person

__all__ = [
    "Verdict",
    "compare",
    "enough_visible",
    "iou",
    "read_attire",
    "read_background",
    "read_character",
    "read_cloth",
    "read_colour",
    "read_person",
    "same_cloth",
]
