"""How a motion or a transition spends its time. One easing is one entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .errors import VideoError


@dataclass(frozen=True)
class Easing:
    """A map of time onto progress: 0 -> 0, 1 -> 1, never outside [0, 1], never backwards."""

    name: str
    help: str
    curve: Callable[[float], float]


EASINGS = {
    easing.name: easing
    for easing in (
        Easing("linear", "the same speed all the way", lambda t: t),
        Easing("smooth", "starts and ends gently", lambda t: t * t * (3.0 - 2.0 * t)),
        Easing("ease_in", "starts slowly", lambda t: t * t),
        Easing("ease_out", "ends slowly", lambda t: t * (2.0 - t)),
        Easing("sine", "a slow swing", lambda t: 0.5 - 0.5 * math.cos(math.pi * t)),
    )
}


def ease(name: str, t: float) -> float:
    """Progress of the easing `name` at time `t`; both within [0, 1].

    Raises:
        VideoError: no easing has that name.
    """
    if name not in EASINGS:
        raise VideoError(f"Unknown easing {name!r}: use one of {', '.join(EASINGS)}.")
    return EASINGS[name].curve(min(max(t, 0.0), 1.0))
