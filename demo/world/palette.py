"""Every colour of the world, in 8-bit sRGB.

People are saturated (or black, or white); backgrounds are pastel or dusky. That keeps the doll
readable against every scene, and lets a reader tell person from background by colour alone.
"""

import numpy as np

Rgb = tuple[int, int, int]

CLOTH: dict[str, Rgb] = {
    "red": (212, 42, 52),
    "orange": (245, 130, 32),
    "yellow": (252, 208, 40),
    "green": (30, 150, 76),
    "blue": (34, 88, 208),
    "purple": (122, 50, 166),
    "pink": (250, 112, 178),
    "white": (254, 254, 252),
    "black": (36, 34, 44),
}

HAIR: dict[str, Rgb] = {
    "black": (34, 28, 34),
    "brown": (112, 62, 34),
    "blonde": (242, 196, 84),
    "ginger": (214, 88, 30),
    "silver": (176, 178, 208),
    "blue": (46, 108, 230),
    "pink": (248, 120, 190),
    "green": (36, 164, 96),
}

SKIN: dict[str, Rgb] = {
    "pale": (253, 206, 178),
    "tan": (222, 156, 104),
    "brown": (164, 102, 62),
    "dark": (98, 58, 40),
}

SHOES: dict[str, Rgb] = {
    "red": CLOTH["red"],
    "yellow": CLOTH["yellow"],
    "green": CLOTH["green"],
    "blue": CLOTH["blue"],
    "white": CLOTH["white"],
    "black": CLOTH["black"],
}

INK: Rgb = (44, 34, 44)
MOUTH: Rgb = (176, 62, 66)
GLASSES: Rgb = (40, 32, 52)
EYE_PATCH: Rgb = (24, 22, 30)
MANNEQUIN: Rgb = (206, 200, 196)
STUDIO: Rgb = (136, 130, 126)


def shade(colour: Rgb, amount: float = 0.66) -> Rgb:
    """The colour in shadow: outlines, folds, the ground under a person."""
    return tuple(int(round(channel * amount)) for channel in colour)  # type: ignore[return-value]


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0-255 (..., 3) to OKLab (B. Ottosson, "A perceptual color space", 2020)."""
    unit = np.asarray(rgb, dtype=np.float32) / np.float32(255)
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ],
        dtype=np.float32,
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ],
        dtype=np.float32,
    )
    return np.cbrt(linear @ to_lms.T) @ to_lab.T


def distance(a: Rgb, b: Rgb) -> float:
    """Perceptual distance in OKLab; about 0.02 is just noticeable, black to white is 1."""
    return float(np.linalg.norm(oklab(np.array(a)) - oklab(np.array(b))))


def _contrasting_pairs() -> tuple[tuple[str, str], ...]:
    names = list(CLOTH)
    return tuple((a, b) for a in names for b in names if distance(CLOTH[a], CLOTH[b]) > 0.28)


# Two colours of one cloth must be told apart after blur: orange on yellow would not be.
CLOTH_PAIRS = _contrasting_pairs()
