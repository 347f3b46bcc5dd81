"""Head, hair, face and face marks, in the head's own frame.

u points to the viewer's right, v up, lengths in body heights; `turn` = where the face looks, in
radians, positive to the viewer's right: features slide that way and the hair the other way.
"""

from math import cos, pi, sin

from . import labels as L
from .canvas import LocalPen
from .specs import Character

_FACE_U, _FACE_V = 0.090, 0.100


def draw_back_hair(pen: LocalPen, character: Character, turn: float, unit: float) -> None:
    """Hair that falls behind the shoulders."""
    if character.mannequin:
        return
    s = sin(turn)
    if character.hair_style == "long":
        pen.polygon(_rounded(-0.022 * s, -0.085, 0.122 - 0.015 * abs(s), 0.185), L.HAIR_BACK)
    elif character.hair_style == "pigtails":
        for side in (-1, 1):
            u = side * 0.148 * max(cos(turn), 0.4) - 0.035 * s
            pen.ellipse(u, -0.050, 0.046, 0.082, L.HAIR_EXTRA)
            pen.circle(u - side * 0.02, 0.040, 0.032, L.HAIR_EXTRA)


def draw_head(pen: LocalPen, character: Character, turn: float) -> None:
    s, c = sin(turn), cos(turn)
    if character.mannequin:
        pen.ellipse(0.01 * s, 0.0, _FACE_U, _FACE_V, L.SKIN_HEAD)
        return
    _hair_behind_face(pen, character.hair_style, s)
    for side in (-1, 1):
        if side * s < 0.55:  # the far ear is hidden
            pen.circle(side * 0.094 * max(c, 0.2) - 0.012 * s, -0.014, 0.020, L.EAR)
    pen.ellipse(0.022 * s, -0.008, _FACE_U - 0.008 * abs(s), _FACE_V, L.SKIN_HEAD)
    _face(pen, character, s, c)
    _fringe(pen, character.hair_style, s)


def _rounded(u: float, v: float, half: float, tall: float) -> list[tuple[float, float]]:
    """A shape round above, nearly straight below: falling hair."""
    arc = [(u + half * cos(pi * i / 12), v + 0.08 + (tall - 0.08) * sin(pi * i / 12))
           for i in range(13)]  # fmt: skip
    low = v - tall * 0.72
    return arc + [(u - half * 1.02, low + 0.02), (u - half * 0.7, low - 0.012), (u, low + 0.002),
                  (u + half * 0.7, low - 0.012), (u + half * 1.02, low + 0.02)]  # fmt: skip


def _hair_behind_face(pen: LocalPen, style: str, s: float) -> None:
    if style == "curly":
        for i in range(9):
            angle = pi * (-0.24 + 1.48 * i / 8)
            pen.circle(0.114 * cos(angle) - 0.02 * s, 0.018 + 0.106 * sin(angle), 0.056, L.HAIR)
        pen.ellipse(-0.02 * s, 0.03, 0.115, 0.105, L.HAIR)
        return
    if style == "bun":
        pen.circle(-0.045 * s, 0.130, 0.046, L.HAIR_EXTRA)
    if style == "spiky":
        tips = [(-0.126, 0.03), (-0.140, 0.095), (-0.098, 0.158), (-0.034, 0.192), (0.034, 0.192),
                (0.098, 0.158), (0.140, 0.095), (0.126, 0.03)]  # fmt: skip
        points = []
        for i, (u, v) in enumerate(tips):
            points.append((u - 0.015 * s, v))
            if i < 7:
                angle = pi * (1 - (i + 1) / 8)
                points.append((0.098 * cos(angle) - 0.015 * s, 0.01 + 0.098 * sin(angle)))
        pen.polygon([*points, (0.08, -0.02), (-0.08, -0.02)], L.HAIR)
        pen.ellipse(-0.015 * s, 0.012, 0.102, 0.098, L.HAIR)
        return
    side = 0.110 if style == "long" else 0.106
    pen.ellipse(-0.016 * s, 0.018, side, 0.108, L.HAIR)
    if style == "short":  # a quiff, so that short hair is no bathing cap
        pen.ellipse(0.014 + 0.01 * s, 0.104, 0.070, 0.042, L.HAIR)


def _fringe(pen: LocalPen, style: str, s: float) -> None:
    """Hair in front of the forehead; what makes a style readable from the front."""
    shift = 0.020 * s

    def cap(line: list[tuple[float, float]], half: float = 0.101, top: float = 0.109) -> None:
        arc = [(half * cos(pi * i / 12) - 0.008 * s, 0.014 + top * sin(pi * i / 12) * 0.98)
               for i in range(13)]  # fmt: skip
        pen.polygon(arc + [(u + shift, v) for u, v in line], L.HAIR)

    if style == "short":
        cap([(-0.094, 0.010), (-0.078, 0.056), (-0.02, 0.076), (0.045, 0.046), (0.092, 0.016)])
    elif style == "long":
        cap([(-0.098, -0.030), (-0.080, 0.020), (-0.050, 0.052), (0.0, 0.080), (0.050, 0.052),
             (0.080, 0.020), (0.098, -0.030)])  # fmt: skip
    elif style == "curly":
        for i in range(5):
            pen.circle((i - 2) * 0.040 + shift, 0.078 - 0.008 * (i - 2) ** 2, 0.030, L.HAIR)
    elif style == "bun":
        cap([(-0.094, 0.012), (-0.060, 0.062), (0.0, 0.076), (0.060, 0.062), (0.094, 0.012)])
    elif style == "spiky":
        cap([(-0.094, 0.020), (-0.066, 0.040), (-0.048, 0.070), (-0.020, 0.040), (0.004, 0.070),
             (0.030, 0.040), (0.052, 0.068), (0.072, 0.040), (0.094, 0.020)])  # fmt: skip
    elif style == "pigtails":
        cap([(-0.095, 0.000), (-0.080, 0.036), (0.080, 0.036), (0.095, 0.000)])


def _face(pen: LocalPen, character: Character, s: float, c: float) -> None:
    mark = character.mark
    near = 0.30 + 0.70 * max(c, 0.0)

    def slide(u: float) -> float:
        return u * near + 0.072 * s

    if mark == "blush":
        for side in (-1, 1):
            pen.ellipse(slide(side * 0.056), -0.044, 0.021, 0.016, L.CHEEK)
    if mark == "beard":
        u0 = 0.022 * s
        jaw = [
            (
                (_FACE_U + 0.001) * cos(pi * (1 + i / 12)) + u0,
                -0.014 + (_FACE_V + 0.004) * sin(pi * (1 + i / 12)),
            )
            for i in range(13)
        ]
        inner = [(slide(0.062), -0.024), (slide(0.034), -0.036), (slide(0.0), -0.032),
                 (slide(-0.034), -0.036), (slide(-0.062), -0.024)]  # fmt: skip
        pen.polygon(jaw + inner, L.BEARD)
    eye = 0.0125
    for side in (-1, 1):
        if side * s < 0.93:
            pen.ellipse(slide(side * 0.040), 0.000, eye * (0.6 + 0.4 * c), 0.0165, L.EYE)
    mouth = [(slide(-0.024), -0.056), (slide(0.0), -0.064), (slide(0.024), -0.056)]
    for a, b in zip(mouth, mouth[1:], strict=False):
        pen.capsule(a, b, 0.0055, L.MOUTH)
    if mark == "moustache":
        for side in (-1, 1):
            pen.capsule((slide(side * 0.010), -0.038), (slide(side * 0.040), -0.046), 0.0115,
                        L.BEARD)  # fmt: skip
    if mark == "glasses":
        for side in (-1, 1):
            u = slide(side * 0.042)
            pen.ellipse(u, 0.0, 0.036 * (0.55 + 0.45 * c), 0.034, L.MARK)
            pen.ellipse(u, 0.0, 0.036 * (0.55 + 0.45 * c) - 0.010, 0.024, L.SKIN_HEAD)
            pen.ellipse(u, 0.0, eye * (0.6 + 0.4 * c), 0.0165, L.EYE)
        pen.capsule((slide(-0.010), 0.004), (slide(0.010), 0.004), 0.006, L.MARK)
    if mark == "eyepatch":
        u = slide(0.042)
        pen.capsule((slide(-0.085), 0.060), (slide(0.09), 0.000), 0.006, L.MARK)
        pen.ellipse(u, 0.002, 0.032 * (0.55 + 0.45 * c), 0.030, L.MARK)
