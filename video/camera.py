"""Camera moves over a picture (the Ken Burns effect). One move is one entry.

A view says what part of a picture fills the frame; a move goes from one view to another. Sizes
change by equal factors in equal times, so a zoom is felt at constant speed; the window's corner
follows its size, so a zoom has one fixed point instead of drifting around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .easing import ease
from .errors import VideoError

MAX_ZOOM = 16.0


@dataclass(frozen=True)
class View:
    """A window onto a picture: its centre in [0, 1] of the picture, and how far it is zoomed in.

    Zoom 1 is the largest window of the film's shape that fits. A window that would leave the
    picture is moved back inside.
    """

    x: float = 0.5
    y: float = 0.5
    zoom: float = 1.0


@dataclass(frozen=True)
class Window:
    """A part of a picture in its pixels: left, top, width, height; fractions allowed."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Move:
    start: View
    end: View
    easing: str = "smooth"

    def window(self, progress: float, widest: Window, width: float, height: float) -> Window:
        """The window at `progress` [0, 1] of the move over a picture of width x height pixels.

        `widest` is the window of zoom 1; it lies inside the picture.
        """
        first = view_window(self.start, widest, width, height)
        last = view_window(self.end, widest, width, height)
        e = ease(self.easing, progress)
        ratio = last.width / first.width
        scale = ratio**e
        p = e if abs(ratio - 1.0) < 1e-9 else (scale - 1.0) / (ratio - 1.0)
        return Window(
            first.left + (last.left - first.left) * p,
            first.top + (last.top - first.top) * p,
            first.width * scale,
            first.height * scale,
        )


def view_window(view: View, widest: Window, width: float, height: float) -> Window:
    """The window of a view inside a picture of width x height pixels."""
    if not 1.0 <= view.zoom <= MAX_ZOOM:
        raise VideoError(f"A zoom of {view.zoom:g} is out of range: use 1 to {MAX_ZOOM:g}.")
    window_width, window_height = widest.width / view.zoom, widest.height / view.zoom
    left = min(max(view.x * width - window_width / 2, 0.0), width - window_width)
    top = min(max(view.y * height - window_height / 2, 0.0), height - window_height)
    return Window(left, top, window_width, window_height)


@dataclass(frozen=True)
class MoveKind:
    """A named move; `make(amount)` gives its two views, where 0.2 means 20 percent of zoom."""

    name: str
    help: str
    make: Callable[[float], tuple[View, View]] | None  # None: the camera stands still


MOVES = {
    kind.name: kind
    for kind in (
        MoveKind("none", "the camera stands still", None),
        MoveKind("zoom_in", "slowly closer", lambda a: (View(), View(zoom=1 + a))),
        MoveKind("zoom_out", "slowly away", lambda a: (View(zoom=1 + a), View())),
        MoveKind("pan_left", "to the left", lambda a: (View(1, 0.5, 1 + a), View(0, 0.5, 1 + a))),
        MoveKind("pan_right", "to the right", lambda a: (View(0, 0.5, 1 + a), View(1, 0.5, 1 + a))),
        MoveKind("pan_up", "upwards", lambda a: (View(0.5, 1, 1 + a), View(0.5, 0, 1 + a))),
        MoveKind("pan_down", "downwards", lambda a: (View(0.5, 0, 1 + a), View(0.5, 1, 1 + a))),
    )
}


def camera_move(name: str, amount: float, easing: str = "smooth") -> Move | None:
    """The move called `name`; None where the camera stands still.

    Raises:
        VideoError: unknown move or easing, or an amount outside 0..15.
    """
    if name not in MOVES:
        raise VideoError(f"Unknown camera move {name!r}: use one of {', '.join(MOVES)}.")
    if not 0.0 <= amount <= MAX_ZOOM - 1:
        raise VideoError(f"A camera amount of {amount:g} is out of range: use 0 to {MAX_ZOOM - 1}.")
    ease(easing, 0.0)
    make = MOVES[name].make
    if make is None:
        return None
    start, end = make(amount)
    return Move(start, end, easing)
