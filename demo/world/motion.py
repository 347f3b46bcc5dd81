"""Poses: single ones drawn at random, and sequences as functions of time."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import cos, pi, sin

from .draws import Draws
from .skeleton import Angles, Pose, fit, place

ACTIONS = ("standing", "arms up", "waving", "sitting", "walking", "dancing", "jumping")


def blend(a: Angles, b: Angles, amount: float) -> Angles:
    """Between two poses, angle by angle; 0 gives `a`, 1 gives `b`."""
    out = {}
    for item in fields(Angles):
        first, second = getattr(a, item.name), getattr(b, item.name)
        if isinstance(first, tuple):
            out[item.name] = tuple(p + (q - p) * amount for p, q in zip(first, second, strict=True))
        elif isinstance(first, float):
            out[item.name] = first + (second - first) * amount
    return replace(a if amount < 0.5 else b, **out)


# -- sequences: Angles as a function of the phase, one turn = one cycle --------------------------


def walk(phase: float, yaw: float = 35.0, energy: float = 1.0) -> Angles:
    """A walking cycle: legs and arms swing in opposite time."""
    swing, knee = sin(2 * pi * phase), cos(2 * pi * phase)
    stride = 27 * energy
    return Angles(
        yaw=yaw, lean=2 * swing, bend=4 * energy, head_yaw=-yaw * 0.3, head_roll=-2 * swing,
        r_thigh=(4, stride * swing), l_thigh=(4, -stride * swing),
        r_shin=(3, stride * swing - 12 - 26 * energy * max(0.0, knee)),
        l_shin=(3, -stride * swing - 12 - 26 * energy * max(0.0, -knee)),
        r_arm=(14, -28 * energy * swing), l_arm=(14, 28 * energy * swing),
        r_fore=(9, 14 - 24 * energy * swing), l_fore=(9, 14 + 24 * energy * swing),
        action="walking",
    )  # fmt: skip


def sway(phase: float, energy: float = 1.0) -> Angles:
    """Arms up, swinging like reeds, hips answering."""
    s, c = sin(2 * pi * phase), cos(2 * pi * phase)
    return Angles(
        yaw=14 * s, lean=9 * energy * s, head_roll=-9 * s, head_yaw=-10 * s,
        r_arm=(148 - 26 * s, 8), r_fore=(166 - 34 * energy * s, 4),
        l_arm=(148 + 26 * s, 8), l_fore=(166 + 34 * energy * s, 4),
        r_thigh=(9 - 8 * s, 4), r_shin=(8 - 9 * s, -4),
        l_thigh=(9 + 8 * s, 4), l_shin=(8 + 9 * s, -4),
        lift=0.012 * abs(c), action="dancing",
    )  # fmt: skip


def disco(phase: float, energy: float = 1.0) -> Angles:
    """One hand to the sky, one to the ground, then the other way round."""
    s = sin(2 * pi * phase)
    up, down = 0.5 + 0.5 * s, 0.5 - 0.5 * s
    return Angles(
        yaw=20 * s, lean=-7 * s, head_yaw=-8 * s, head_roll=7 * s,
        r_arm=(28 + 112 * up, 14), r_fore=(34 + 112 * up, 10),
        l_arm=(28 + 112 * down, 14), l_fore=(34 + 112 * down, 10),
        r_thigh=(8 + 16 * energy * up, 0), r_shin=(4 + 14 * energy * up, -2 - 12 * down),
        l_thigh=(8 + 16 * energy * down, 0), l_shin=(4 + 14 * energy * down, -2 - 12 * up),
        action="dancing",
    )  # fmt: skip


def kick(phase: float, energy: float = 1.0) -> Angles:
    """Hands on the hips, legs flung out by turns."""
    s = sin(2 * pi * phase)
    right, left = max(0.0, s), max(0.0, -s)
    return Angles(
        lean=-6 * s, head_roll=8 * s, yaw=6 * s,
        r_arm=(44, -4), r_fore=(-34, 18), l_arm=(44, -4), l_fore=(-34, 18),
        r_thigh=(6 + 58 * energy * right, 6), r_shin=(4 + 54 * energy * right, -4),
        l_thigh=(6 + 58 * energy * left, 6), l_shin=(4 + 54 * energy * left, -4),
        lift=0.02 * abs(s), action="dancing",
    )  # fmt: skip


def wave_arms(phase: float, energy: float = 1.0) -> Angles:
    """A wave running from one hand to the other through level arms."""
    s, t, c = (sin(2 * pi * (phase + d)) for d in (0.0, 0.22, 0.5))
    return Angles(
        lean=6 * s, head_roll=-8 * s, head_yaw=14 * s, yaw=8 * t,
        r_arm=(90 + 24 * energy * s, 6), r_fore=(92 + 52 * energy * t, 6),
        l_arm=(90 + 24 * energy * c, 6), l_fore=(92 - 52 * energy * t, 6),
        r_thigh=(10, 6 + 10 * s), r_shin=(8, -10), l_thigh=(10, 6 - 10 * s), l_shin=(8, -10),
        action="dancing",
    )  # fmt: skip


def jump(phase: float, energy: float = 1.0) -> Angles:
    """Jumping jacks."""
    up = 0.5 - 0.5 * cos(2 * pi * phase)
    return Angles(
        r_arm=(16 + 118 * up, 4), l_arm=(16 + 118 * up, 4),
        r_fore=(14 + 132 * up, 4), l_fore=(14 + 132 * up, 4),
        r_thigh=(4 + 26 * energy * up, 3), l_thigh=(4 + 26 * energy * up, 3),
        r_shin=(3 + 24 * energy * up, -4), l_shin=(3 + 24 * energy * up, -4),
        lift=0.07 * energy * sin(pi * up), action="jumping",
    )  # fmt: skip


def greet(phase: float, energy: float = 1.0) -> Angles:
    """One hand waving."""
    s = sin(2 * pi * phase)
    return Angles(
        lean=3 * s, head_roll=8, yaw=-10, l_arm=(112, 10), l_fore=(158 + 30 * energy * s, 8),
        r_arm=(14, 0), r_fore=(2, 22), action="waving",
    )  # fmt: skip


SEQUENCES: dict[str, Callable[..., Angles]] = {
    "walk": walk, "sway": sway, "disco": disco, "kick": kick, "wave": wave_arms, "jump": jump,
    "greet": greet,
}  # fmt: skip
DANCES = ("sway", "disco", "kick", "wave")


@dataclass(frozen=True)
class Motion:
    """A sequence placed in a picture: `pose(t)` for any time in seconds.

    unit, x, ground: as in `skeleton.place`; travel: picture heights walked per second;
    seconds: length of one cycle.
    """

    name: str
    unit: float = 0.8
    x: float = 0.5
    ground: float = 0.94
    seconds: float = 1.6
    energy: float = 1.0
    travel: float = 0.0
    mirror: bool = False
    phase: float = 0.0

    def angles(self, t: float) -> Angles:
        angles = SEQUENCES[self.name](t / self.seconds + self.phase, energy=self.energy)
        return angles.mirrored() if self.mirror else angles

    def pose(self, t: float) -> Pose:
        """The pose `t` seconds into the sequence. Never refitted, so frames do not jump."""
        return place(self.angles(t), self.unit, self.x + self.travel * t, self.ground)


# -- single poses ---------------------------------------------------------------------------------


def _jitter(angles: Angles, draws: Draws, amount: float) -> Angles:
    out = {}
    for item in fields(Angles):
        value = getattr(angles, item.name)
        if isinstance(value, tuple):
            out[item.name] = tuple(v + draws.between(-amount, amount) for v in value)
    for name in ("yaw", "lean", "head_yaw", "head_roll"):
        out[name] = getattr(angles, name) + draws.between(-amount, amount) * 0.6
    return replace(angles, **out)


def _arm(draws: Draws) -> tuple[tuple[float, float], tuple[float, float]]:
    """Upper arm and forearm of one relaxed or posing arm."""
    kind = draws.below(4)
    if kind == 0:  # hanging
        return (draws.between(8, 22), draws.between(-8, 8)), (draws.between(2, 16), 12.0)
    if kind == 1:  # hand on the hip
        return (draws.between(36, 52), -6.0), (draws.between(-40, -26), 16.0)
    if kind == 2:  # out to the side
        out = draws.between(40, 95)
        return (out, 4.0), (out + draws.between(-30, 45), 8.0)
    return (draws.between(12, 30), 12.0), (draws.between(30, 100), draws.between(10, 40))


def _standing(draws: Draws) -> Angles:
    r_arm, r_fore = _arm(draws)
    l_arm, l_fore = _arm(draws)
    wide, lean = draws.between(2, 14), draws.between(-5, 5)
    return Angles(
        yaw=draws.between(-50, 50), lean=lean, head_roll=draws.between(-10, 10) - lean,
        head_yaw=draws.between(-18, 18), r_arm=r_arm, r_fore=r_fore, l_arm=l_arm, l_fore=l_fore,
        r_thigh=(wide, 0), r_shin=(wide - 1, -2), l_thigh=(wide, 0), l_shin=(wide - 1, -2),
    )  # fmt: skip


def _arms_up(draws: Draws) -> Angles:
    r, left = draws.between(115, 165), draws.between(115, 165)
    return replace(
        _standing(draws), r_arm=(r, 6.0), r_fore=(r + draws.between(-12, 35), 6.0),
        l_arm=(left, 6.0), l_fore=(left + draws.between(-12, 35), 6.0), action="arms up",
    )  # fmt: skip


def _sitting(draws: Draws) -> Angles:
    yaw = draws.pick((-1, 1)) * draws.between(15, 62)
    hands = draws.between(28, 50)
    r_arm, l_arm = ((draws.between(8, 18), draws.between(2, 20)) for _ in range(2))
    angles = Angles(
        yaw=yaw, bend=draws.between(-4, 8), head_yaw=-yaw * draws.between(0.2, 0.7),
        head_roll=draws.between(-8, 8), r_arm=r_arm, l_arm=l_arm,
        r_fore=(4, hands), l_fore=(4, hands), r_thigh=(8, 80), l_thigh=(8, 80),
        r_shin=(3, draws.between(-12, 8)), l_shin=(3, draws.between(-12, 8)),
        seat=True, action="sitting",
    )  # fmt: skip
    if draws.chance(0.3):
        return replace(angles, l_arm=(118, 10.0), l_fore=(162, 8.0))
    return angles


def _walking(draws: Draws) -> Angles:
    yaw = draws.pick((-1, 1)) * draws.between(18, 75)
    return walk(draws.unit(), yaw, draws.between(0.7, 1.25))


def _dancing(draws: Draws) -> Angles:
    a = SEQUENCES[draws.pick(DANCES)](draws.unit(), energy=draws.between(0.7, 1.2))
    if draws.chance(0.35):
        a = blend(a, SEQUENCES[draws.pick(DANCES)](draws.unit()), draws.between(0.2, 0.8))
    return replace(a, yaw=a.yaw + draws.between(-28, 28))


_FAMILIES: dict[str, Callable[[Draws], Angles]] = {
    "standing": _standing,
    "arms up": _arms_up,
    "waving": lambda draws: greet(draws.unit(), draws.between(0.6, 1.2)),
    "sitting": _sitting,
    "walking": _walking,
    "dancing": _dancing,
    "jumping": lambda draws: jump(draws.between(0.2, 0.8), draws.between(0.7, 1.2)),
}
_FREQUENCY = (
    ("standing", 3.0), ("arms up", 1.5), ("waving", 1.2), ("sitting", 1.6), ("walking", 2.4),
    ("dancing", 3.0), ("jumping", 1.0),
)  # fmt: skip


def draw_angles(draws: Draws, action: str | None = None) -> Angles:
    """A random pose of one of ACTIONS (drawn when not given)."""
    action = action or draws.pick_weighted(_FREQUENCY)
    angles = _jitter(_FAMILIES[action](draws), draws, 7.0)
    return angles.mirrored() if draws.chance(0.5) else angles


def draw_pose(draws: Draws, action: str | None = None, aspect: float = 1.0) -> Pose:
    """A random pose, placed so that the person is fully in view; `aspect` = width / height."""
    angles = draw_angles(draws, action)
    unit = draws.between(0.74, 0.92)
    x = aspect * 0.5 + draws.between(-0.17, 0.17) * max(1.0, 2 * aspect - 1)
    return fit(angles, unit, x, draws.between(0.91, 0.965), aspect)
