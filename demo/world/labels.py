"""The labels of a label picture, and what each one means: part, region, outline group."""

import numpy as np

from .canvas import PERSON_END, SHADE

# Same names as the regions that conditioning derives from a skeleton; the index is the value in
# `Rendered.regions`.
REGIONS = ("background", "head", "hands", "upper", "lower", "feet")

SKIN_HEAD, SKIN_ARM_R, SKIN_ARM_L, HAND_R, HAND_L, SKIN_LEG_R, SKIN_LEG_L = range(1, 8)
HAIR_BACK, HAIR, HAIR_EXTRA, EYE, MOUTH, CHEEK, MARK, BEARD, EAR = range(8, 17)
SHOE_R, SHOE_L, TRIM = range(17, 20)
TORSO, SLEEVE_R, SLEEVE_L, TAIL, LOWER, LEG_R, LEG_L = range(32, 39)
# A garment label with this bit set shows the garment's second colour.
SECOND = 16
BACKGROUND = 64

UPPER_GARMENT = (TORSO, SLEEVE_R, SLEEVE_L, TAIL)
LOWER_GARMENT = (LOWER, LEG_R, LEG_L)
HAIR_PARTS = (HAIR_BACK, HAIR, HAIR_EXTRA)

_REGION_OF = {
    "head": (SKIN_HEAD, EAR, EYE, MOUTH, CHEEK, MARK, BEARD, *HAIR_PARTS),
    "hands": (HAND_R, HAND_L),
    "upper": (SKIN_ARM_R, SKIN_ARM_L, TRIM, TORSO, SLEEVE_R, SLEEVE_L),
    "lower": (SKIN_LEG_R, SKIN_LEG_L, TAIL, *LOWER_GARMENT),
    "feet": (SHOE_R, SHOE_L),
}
# No line is drawn between labels of one group.
_GROUPS = ((SKIN_HEAD, EYE, MOUTH, CHEEK, MARK, BEARD), (TORSO, TAIL, TRIM))


def _variants(label: int) -> tuple[int, ...]:
    base = (label, label | SECOND) if TORSO <= label <= LEG_L else (label,)
    return base + tuple(value | SHADE for value in base)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    region, group = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    part = np.zeros(256, np.uint8)
    for name, labels in _REGION_OF.items():
        for label in labels:
            for value in _variants(label):
                region[value] = REGIONS.index(name)
                group[value] = part[value] = label
    for members in _GROUPS:
        for label in members:
            for value in _variants(label):
                group[value] = members[0]
    return region, group, part


# All three: (256,) uint8, indexed by label. PART is the label without pattern and shade, 0 for the
# background.
REGION, GROUP, PART = _tables()
IS_PERSON = np.array([0 < value % SHADE < PERSON_END for value in range(256)])
