"""From what a user asks for to a checked film: defaults filled in, what is wrong named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from .easing import ease
from .errors import VideoError
from .framing import FITS
from .rational import exact_rate, seconds
from .sound import Sound
from .timeline import CUT, Shot, Timeline, Transition, shot_seconds
from .transitions import transition_kind

MAX_SIDE = 16384  # pixels; what H.264 can describe


def make_transition(
    kind: str, duration: float | Fraction, easing: str = "linear", softness: float = 0.0
) -> Transition:
    """A checked transition. A cut, or one without duration, is `CUT`.

    Raises:
        VideoError: unknown kind or easing, a negative duration, softness outside [0, 1].
    """
    ease(easing, 0.0)
    if not 0.0 <= softness <= 1.0:
        raise VideoError(f"A transition softness of {softness:g} is out of range: use 0 to 1.")
    time = seconds(duration, "transition duration")
    if transition_kind(kind).mix is None or not time:
        return CUT
    return Transition(kind, time, easing, softness)


def assemble(
    shots: Sequence[Shot],
    fps: float | str | Fraction,
    width: int = 0,
    height: int = 0,
    transition: Transition = CUT,
    sound: Sound | None = None,
) -> Timeline:
    """A film of these shots in this order.

    Args:
        width, height: of the film in pixels; 0 takes them from the first shot (one of them 0 keeps
            the first shot's shape).
        transition: for every shot that does not bring its own. The first shot needs none.

    Raises:
        VideoError: no shots, a size or rate out of range, or transitions that do not fit.
    """
    if not shots:
        raise VideoError("The film has no shots: connect at least one.")
    for number, shot in enumerate(shots, 1):
        if shot.fit not in FITS:
            raise VideoError(f"Shot {number}: unknown fit {shot.fit!r}, use {', '.join(FITS)}.")
    rate = exact_rate(fps)
    width, height = _film_size(shots[0], width, height)
    joints = tuple(transition if shot.transition is None else shot.transition for shot in shots[1:])
    # Fixing the lengths now keeps a still's length independent of what happens to the film later.
    fixed = tuple(replace(shot, duration=shot_seconds(shot, rate)) for shot in shots)
    return Timeline(fixed, joints, rate, width, height, sound)


def _film_size(first: Shot, width: int, height: int) -> tuple[int, int]:
    own_width, own_height = first.source.size()
    if not width and not height:
        width, height = own_width, own_height
    elif not width:
        width = max(1, round(height * own_width / own_height))
    elif not height:
        height = max(1, round(width * own_height / own_width))
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise VideoError(f"A film of {width}x{height} is out of range: use 1 to {MAX_SIDE} pixels.")
    return width, height
