"""Scenery from a few shapes and eight colours: each kind is one function, each tone one palette.

Label 64 + i is colour i of the palette: 0 sky or wall, 1 far, 2 middle, 3 ground, 4 and 5 details,
6 stool, 7 second detail. Ground reaches from the horizon to the lower edge.
"""

from collections.abc import Callable
from math import pi, sin

from .canvas import Pen
from .draws import Draws
from .labels import BACKGROUND
from .palette import STUDIO, Rgb, shade
from .specs import Background

_B = BACKGROUND


def _hex(text: str) -> tuple[Rgb, ...]:
    return tuple(
        (int(item[:2], 16), int(item[2:4], 16), int(item[4:], 16)) for item in text.split()
    )


# sky/wall far middle ground detail detail2 stool detail3
PALETTES: dict[tuple[str, str], tuple[Rgb, ...]] = {
    ("street", "rose"): _hex("cfe0e6 d9a9a6 c98e96 b8a6a1 f4e6ae 8f7680 9a8578 dbc7c7"),
    ("street", "blue"): _hex("d6e6e4 80b0c7 7596ba 9ba9aa f6e8a6 5f7890 9a8578 c3d2dc"),
    ("street", "sand"): _hex("c8dde8 d8c8a0 bcb088 b4aa9c f8ecb4 8c7a62 8d7a70 d7dfb5"),
    ("hills", "green"): _hex("cfe6ee a9c8a0 8ab68a a4c48c f8ecac 6f9a78 9a8578 d9eaef"),
    ("hills", "violet"): _hex("e2dcee b598ca 9a8cba a59ac0 f8e8b4 7a6ea0 8d7a70 eae4f5"),
    ("hills", "golden"): _hex("d4e8f0 d6c892 c0b070 d2c084 fbf0b4 9c8a58 8d7a70 dbe9ee"),
    ("room", "pink"): _hex("e8cede c0a694 dea9b5 b09a90 cfe0ea a08078 857064 e4bac6"),
    ("room", "mint"): _hex("c8e2d4 aebca0 a6ccba a89c8c d8e6f0 84988a 857064 b8d6c8"),
    ("room", "blue"): _hex("c2d4e6 95aab0 80bce7 9c98a0 f0eebe 7888a0 857064 abceed"),
    ("sea", "blue"): _hex("d2e6f0 7cafd0 a5cfea dbdba4 fbf0b2 c4b494 9a8578 dbe8f2"),
    ("sea", "turquoise"): _hex("d4eaee 86c2c0 a6d6d0 dde1b2 fbf0b8 c8a49c 9a8578 d9eaef"),
    ("sea", "sunset"): _hex("decad1 a79bbb d2a0cb d4c9af fce49c a8928c 8d7a70 ecdce4"),
    ("night", "blue"): _hex("2e3e66 3f5280 52648e 5c6a88 ece6ae 26345a 6a6070 c8c48e"),
    ("night", "violet"): _hex("463a6a 5a4c80 6c5e90 706888 eee5ad 3a305c 6a6070 d0c09a"),
    ("night", "green"): _hex("2a4e54 3c6468 4e767a 5a7a7a e4e6b0 22424a 6a6a6a bcc894"),
    ("forest", "green"): _hex("d4e8d0 7e9a80 98b890 a8b68c c0d2a8 8a7a66 7a6a5c b4caa0"),
    ("forest", "misty"): _hex("d8e6ea 96b1ac aecfc1 b6c7ac ccdcd4 8c9494 857a70 c4d6d0"),
    ("forest", "autumn"): _hex("e2e5ce b89a84 c4b28e b8a68a dcc890 84705e 7a6a5c d4be8c"),
    ("snow", "blue"): _hex("c4d8ea 81afc9 abceeb dce8f2 dde8f5 7c96b0 8d8078 d2e0ec"),
    ("snow", "violet"): _hex("d6cee6 aa9ac1 cdaceb e4dcf0 ece4f6 8c82aa 8d8078 d8cce8"),
    ("snow", "golden"): _hex("f1e5ac bcae98 d0c8a4 e6e6d2 e6e8d7 98907f 8d8078 d4dfc8"),
    ("desert", "golden"): _hex("d8e6ea ccba88 d7cc9d dbd59e fbf0b4 88a084 9a8578 d2c08c"),
    ("desert", "rose"): _hex("e0dcec cba499 dcb4a6 deb8a4 f8e6b0 8c9c88 8d7a70 c69e93"),
    ("desert", "violet"): _hex("e4d4e4 a898b4 b999b9 dfadc8 f8e6b0 809890 8d7a70 a08cac"),
    ("plain", "grey"): (STUDIO,) * 6 + (shade(STUDIO, 0.8), STUDIO),
}


def colours(background: Background) -> tuple[Rgb, ...]:
    """The eight colours of a background."""
    return PALETTES[background.kind, background.tone]


def _wave(pen: Pen, base: float, height: float, turns: float, phase: float, label: int) -> None:
    """Everything below a rolling line."""
    steps = 24
    line = []
    for i in range(steps + 1):
        x = pen.aspect * i / steps
        angle = 2 * pi * (turns * x + phase)
        line.append((x, base - height * (0.6 * sin(angle) + 0.4 * sin(2.3 * angle + 1.7))))
    pen.polygon([*line, (pen.aspect + 0.1, 1.1), (-0.1, 1.1)], label)


def _cloud(pen: Pen, x: float, y: float, r: float, label: int) -> None:
    for dx, dy, k in ((-1.3, 0.1, 0.7), (-0.45, -0.35, 1.0), (0.55, -0.2, 0.9), (1.4, 0.12, 0.65)):
        pen.circle(x + dx * r, y + dy * r, r * k, label)
    pen.box(x - 1.5 * r, y + 0.1 * r, x + 1.5 * r, y + 0.77 * r, label)


def _clouds(pen: Pen, draws: Draws, label: int, lowest: float) -> None:
    for side in (0.24, 0.78):
        x = pen.aspect * (side + draws.between(-0.14, 0.14))
        _cloud(pen, x, draws.between(0.08, lowest), draws.between(0.032, 0.048), label)


def _sun(pen: Pen, draws: Draws, label: int, low: float, high: float) -> None:
    x = pen.aspect * draws.pick((draws.between(0.1, 0.3), draws.between(0.7, 0.9)))
    pen.circle(x, draws.between(low, high), draws.between(0.065, 0.09), label)


def _street(pen: Pen, draws: Draws) -> None:
    ground = 0.78
    x, index = -draws.between(0.0, 0.15), draws.below(2)
    while x < pen.aspect:
        width, top = draws.between(0.24, 0.34), draws.between(0.16, 0.38)
        wall = _B + 1 + index % 2
        if draws.chance(0.5):
            pen.polygon([(x - 0.015, top), (x + width / 2, top - 0.13), (x + width + 0.015, top)],
                        _B + 5)  # fmt: skip
        else:
            pen.box(x - 0.012, top - 0.03, x + width + 0.012, top, _B + 5)
        pen.box(x, top, x + width, ground, wall)
        for row in range(3):
            y = top + 0.055 + 0.14 * row
            for column in range(2):
                u = x + width * (0.20 + 0.40 * column)
                if y < ground - 0.18:
                    pen.box(u, y, u + width * 0.22, y + 0.075, _B + 4)
        door = x + width * draws.pick((0.22, 0.56))
        pen.box(door, ground - 0.13, door + width * 0.24, ground, _B + 5)
        x, index = x + width + 0.012, index + 1
    pen.box(0, ground, pen.aspect, 1, _B + 3)
    pen.box(0, ground, pen.aspect, ground + 0.025, _B + 7)


def _hills(pen: Pen, draws: Draws) -> None:
    _sun(pen, draws, _B + 4, 0.12, 0.26)
    _clouds(pen, draws, _B + 7, 0.24)
    _wave(pen, draws.between(0.48, 0.54), 0.07, 0.9, draws.unit(), _B + 1)
    _wave(pen, draws.between(0.60, 0.66), 0.05, 1.1, draws.unit(), _B + 2)
    for _ in range(3):
        x, y = draws.between(0, pen.aspect), draws.between(0.60, 0.70)
        pen.box(x - 0.008, y, x + 0.008, y + 0.09, _B + 6)
        pen.circle(x, y - 0.03, 0.052, _B + 5)
    _wave(pen, draws.between(0.74, 0.78), 0.025, 0.8, draws.unit(), _B + 3)


def _room(pen: Pen, draws: Draws) -> None:
    floor = 0.77
    left = draws.chance(0.5)
    x = pen.aspect * (draws.between(0.06, 0.14) if left else draws.between(0.56, 0.64))
    pen.box(x, 0.12, x + 0.30, 0.50, _B + 5)
    pen.box(x + 0.022, 0.142, x + 0.278, 0.478, _B + 4)
    pen.box(x + 0.140, 0.142, x + 0.160, 0.478, _B + 5)
    pen.box(x + 0.022, 0.30, x + 0.278, 0.32, _B + 5)
    u = pen.aspect * (draws.between(0.62, 0.70) if left else draws.between(0.10, 0.18))
    if draws.chance(0.5):  # a picture on the wall
        pen.box(u, 0.18, u + 0.2, 0.36, _B + 5)
        pen.box(u + 0.02, 0.20, u + 0.18, 0.34, _B + 1)
        pen.circle(u + 0.10, 0.28, 0.045, _B + 2)
    else:  # a lamp
        pen.box(u + 0.09, 0.40, u + 0.11, floor, _B + 5)
        pen.polygon([(u + 0.05, 0.30), (u + 0.15, 0.30), (u + 0.20, 0.43), (u, 0.43)], _B + 1)
    pen.box(0, floor, pen.aspect, 1, _B + 3)
    pen.box(0, floor - 0.035, pen.aspect, floor, _B + 1)
    pen.ellipse(pen.aspect * 0.5, 0.915, 0.40, 0.062, _B + 7)


def _sea(pen: Pen, draws: Draws) -> None:
    horizon, shore = draws.between(0.42, 0.50), draws.between(0.72, 0.77)
    _sun(pen, draws, _B + 4, 0.12, 0.24)
    _clouds(pen, draws, _B + 7, 0.20)
    pen.box(0, horizon, pen.aspect, 1, _B + 1)
    x = pen.aspect * draws.pick((draws.between(0.12, 0.28), draws.between(0.72, 0.88)))
    y = horizon + 0.035
    low = y + 0.045
    pen.polygon([(x - 0.09, y), (x + 0.09, y), (x + 0.06, low), (x - 0.06, low)], _B + 5)
    pen.polygon([(x, y - 0.16), (x + 0.08, y - 0.015), (x, y - 0.015)], _B + 7)
    for row in range(3):
        y = horizon + (shore - horizon) * (0.3 + 0.25 * row) + 0.02
        offset = draws.unit() * 0.3
        for i in range(-1, int(pen.aspect / 0.3) + 2):
            u = i * 0.3 + offset
            pen.box(u, y, u + 0.14, y + 0.018, _B + 2)
    _wave(pen, shore, 0.016, 0.9, draws.unit(), _B + 2)
    _wave(pen, shore + 0.03, 0.014, 0.8, draws.unit(), _B + 3)


def _night(pen: Pen, draws: Draws) -> None:
    x = pen.aspect * draws.pick((draws.between(0.12, 0.28), draws.between(0.72, 0.88)))
    y = draws.between(0.12, 0.22)
    pen.circle(x, y, 0.085, _B + 4)
    pen.circle(x + 0.04, y - 0.02, 0.075, _B)
    for i in range(10):
        u = pen.aspect * (i + draws.unit()) / 10
        pen.circle(u, draws.between(0.03, 0.42), 0.011, _B + 4)
    x = -draws.between(0.0, 0.1)
    while x < pen.aspect:
        width, top = draws.between(0.14, 0.22), draws.between(0.40, 0.60)
        pen.box(x, top, x + width, 0.8, _B + 5)
        for row in range(3):
            for column in range(2):
                u, v = x + width * (0.22 + 0.38 * column), top + 0.045 + 0.085 * row
                if draws.chance(0.6) and v < 0.72:
                    pen.box(u, v, u + width * 0.2, v + 0.042, _B + 7)
        x += width + draws.between(0.0, 0.03)
    pen.box(0, 0.79, pen.aspect, 1, _B + 3)
    pen.box(0, 0.79, pen.aspect, 0.82, _B + 2)


def _forest(pen: Pen, draws: Draws) -> None:
    _wave(pen, 0.52, 0.03, 1.3, draws.unit(), _B + 7)
    for layer, (trees, crown, base) in enumerate(((5, 2, 0.70), (4, 1, 0.77))):
        for i in range(trees):
            x = pen.aspect * (i + draws.between(0.2, 0.8)) / trees
            top = draws.between(0.20, 0.34) + 0.03 * layer
            pen.box(x - 0.018, top, x + 0.018, base, _B + 5)
            r = draws.between(0.085, 0.11)
            for dx, dy in ((-0.07, 0.05), (0.07, 0.04), (0.0, -0.04)):
                pen.circle(x + dx, top + dy, r, _B + crown)
    _wave(pen, 0.77, 0.012, 1.2, draws.unit(), _B + 3)
    for _ in range(3):
        x = draws.between(0, pen.aspect)
        pen.ellipse(x, 0.79, 0.09, 0.05, _B + 4)
    pen.box(0, 0.80, pen.aspect, 1, _B + 3)


def _snow(pen: Pen, draws: Draws) -> None:
    for i, (x0, label) in enumerate(((0.22, 1), (0.76, 1), (0.5, 2))):
        x = pen.aspect * (x0 + draws.between(-0.08, 0.08))
        top, half = draws.between(0.16, 0.26) + 0.12 * (i == 2), draws.between(0.36, 0.46)
        pen.polygon([(x - half, 0.76), (x, top), (x + half, 0.76)], _B + label)
        k = 0.32
        cap = [(x - half * k, top + (0.76 - top) * k), (x, top),
               (x + half * k, top + (0.76 - top) * k), (x + half * k * 0.45, top + 0.11),
               (x, top + 0.17), (x - half * k * 0.45, top + 0.11)]  # fmt: skip
        pen.polygon(cap, _B + 4)
    _wave(pen, 0.70, 0.02, 0.9, draws.unit(), _B + 7)
    for i in range(4):
        x = pen.aspect * (i + draws.between(0.1, 0.9)) / 4
        for row in range(3):
            y, half = 0.50 + 0.075 * row, 0.045 + 0.018 * row
            pen.polygon([(x - half, y + 0.1), (x, y), (x + half, y + 0.1)], _B + 5)
        pen.box(x - 0.012, 0.74, x + 0.012, 0.78, _B + 6)
    _wave(pen, 0.775, 0.015, 1.1, draws.unit(), _B + 3)


def _desert(pen: Pen, draws: Draws) -> None:
    _sun(pen, draws, _B + 4, 0.12, 0.28)
    x = pen.aspect * draws.between(-0.05, 0.6)
    top = draws.between(0.34, 0.42)
    pen.polygon([(x, 0.7), (x + 0.06, top), (x + 0.34, top), (x + 0.42, 0.7)], _B + 7)
    pen.box(x + 0.045, top + 0.09, x + 0.365, top + 0.125, _B + 1)
    _wave(pen, draws.between(0.58, 0.64), 0.05, 0.8, draws.unit(), _B + 1)
    _wave(pen, draws.between(0.68, 0.72), 0.035, 1.0, draws.unit(), _B + 2)
    for side in (0.15, 0.85):
        x, y = pen.aspect * (side + draws.between(-0.08, 0.08)), draws.between(0.74, 0.80)
        r = 0.024
        pen.capsule((x, y), (x, y - 0.22), r, r, _B + 5)
        for way in (-1, 1):
            bend = (x + way * 0.065, y - 0.09 - 0.03 * (way > 0))
            pen.capsule((x, bend[1]), bend, r * 0.75, r * 0.75, _B + 5)
            pen.capsule(bend, (bend[0], bend[1] - 0.07), r * 0.75, r * 0.75, _B + 5)
    _wave(pen, 0.79, 0.014, 0.9, draws.unit(), _B + 3)


def _plain(pen: Pen, draws: Draws) -> None:
    """A studio: one colour, which is close to the mean colour that CLIP subtracts."""


KINDS: dict[str, Callable[[Pen, Draws], None]] = {
    "street": _street, "hills": _hills, "room": _room, "sea": _sea, "night": _night,
    "forest": _forest, "snow": _snow, "desert": _desert, "plain": _plain,
}  # fmt: skip


def draw_background(pen: Pen, background: Background) -> None:
    pen.fill(_B)
    KINDS[background.kind](pen, Draws(background.layout))


def draw_stool(pen: Pen, x: float, y: float, ground: float, unit: float) -> None:
    """A stool with its seat at (x, y): furniture, so part of the background."""
    half = 0.115 * unit
    for side in (-1, 1):
        foot = x + side * half * 0.95
        pen.polygon([(x + side * half * 0.5, y), (x + side * half * 0.85, y), (foot, ground),
                     (foot - side * 0.03 * unit, ground)], _B + 6)  # fmt: skip
    pen.capsule((x - half * 0.85, y), (x + half * 0.85, y), 0.026 * unit, 0.026 * unit, _B + 6)
