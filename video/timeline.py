"""A film as data: which shot shows at which frame. Exact times, no pictures, no torch.

Shots follow one another; a transition of T seconds lets the next shot begin T seconds before the
previous one ends, so it shortens the film by T. Every boundary is rounded to a frame from its exact
time (never from the previous boundary), so rounding does not add up over a long film.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .errors import VideoError
from .rational import nearest

if TYPE_CHECKING:
    from .camera import Move
    from .sound import Sound
    from .sources import Source


@dataclass(frozen=True)
class Transition:
    """How a shot follows another one."""

    kind: str = "cut"  # a name of transitions.TRANSITIONS
    duration: Fraction = Fraction(0)  # seconds; both shots show during it
    easing: str = "linear"  # a name of easing.EASINGS
    softness: float = 0.0  # width of a wipe's soft edge: 0 is hard, 1 as wide as the frame


CUT = Transition()


@dataclass(frozen=True, eq=False)
class Shot:
    """Pictures with a place in time. Changing one means making another (dataclasses.replace)."""

    source: Source
    duration: Fraction | None = None  # seconds; None = as long as the source is
    camera: Move | None = None
    fit: str = "fill"  # a name of framing.FITS
    effects: tuple[Any, ...] = ()  # callables (picture_hwc, moment) -> picture_hwc, in order
    transition: Transition | None = None  # how it begins; None = the film's usual transition
    sound: Sound | None = None
    volume: float = 1.0


@dataclass(frozen=True)
class Moment:
    """One frame of one shot: frame `index` of its `count` frames."""

    shot: int
    index: int
    count: int
    fps: Fraction

    @property
    def seconds(self) -> Fraction:
        """Time since the shot began."""
        return self.index / self.fps

    @property
    def progress(self) -> float:
        """0 at the first frame, 1 at the last one."""
        return self.index / (self.count - 1) if self.count > 1 else 0.0


@dataclass(frozen=True)
class FilmFrame:
    """What one frame of the film is made of. Outside transitions `entering` is None."""

    showing: Moment
    entering: Moment | None = None
    transition: Transition = CUT
    progress: float = 0.0  # of the transition, before its easing; strictly between 0 and 1


@dataclass(frozen=True)
class Span:
    """The frames [start, stop) a shot covers, counted from the start of the uncut film."""

    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Timeline:
    """Shots, what joins them, and what the film measures.

    `transitions[k]` joins shot k and shot k + 1. `first` and `length` cut a range of frames out of
    the film without touching the shots. Check and complete user input with `assemble`.
    """

    shots: tuple[Shot, ...]
    transitions: tuple[Transition, ...]
    fps: Fraction
    width: int
    height: int
    sound: Sound | None = None
    first: int = 0
    length: int | None = None  # frames; None = to the end
    spans: tuple[Span, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.shots:
            raise VideoError("The film has no shots: connect at least one.")
        if len(self.transitions) != len(self.shots) - 1:
            raise VideoError("A film of n shots needs n - 1 transitions.")
        object.__setattr__(self, "spans", self._spans())

    def _spans(self) -> tuple[Span, ...]:
        spans: list[Span] = []
        time = Fraction(0)
        overlaps = [Fraction(0), *(joint.duration for joint in self.transitions), Fraction(0)]
        for number, shot in enumerate(self.shots):
            before, after = overlaps[number : number + 2]
            duration = shot_seconds(shot, self.fps)
            start = time - before
            time = start + duration
            span = Span(nearest(start * self.fps), nearest(time * self.fps))
            if span.count < 1:
                raise VideoError(
                    f"Shot {number + 1} lasts {float(duration):g} s, less than one frame at"
                    f" {float(self.fps):g} fps: lengthen it or raise the fps."
                )
            if before + after > duration:
                raise VideoError(
                    f"Shot {number + 1} lasts {float(duration):g} s but its transitions take"
                    f" {float(before):g} + {float(after):g} s: lengthen it or shorten them."
                )
            spans.append(span)
        return tuple(spans)

    @cached_property
    def _starts(self) -> list[int]:
        return [span.start for span in self.spans]

    @property
    def whole_count(self) -> int:
        """Frames of the film before `first` and `length` cut it."""
        return self.spans[-1].stop

    @property
    def frame_count(self) -> int:
        rest = self.whole_count - self.first
        return rest if self.length is None else min(self.length, rest)

    @property
    def seconds(self) -> Fraction:
        return self.frame_count / self.fps

    def frame_at(self, index: int) -> FilmFrame:
        """What frame `index` (0 .. frame_count - 1) shows.

        Inside a transition of n frames the progress of frame j is (j + 1) / (n + 1): the steps
        from the last pure frame to the first pure one are all equal.

        Raises:
            IndexError: the film has no such frame.
        """
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of a film of {self.frame_count} frames")
        position = index + self.first
        number = bisect_right(self._starts, position) - 1
        current = self._moment(number, position)
        if number == 0 or position >= self.spans[number - 1].stop:
            return FilmFrame(current)
        overlap = self.spans[number - 1].stop - self.spans[number].start
        progress = (current.index + 1) / (overlap + 1)
        leaving = self._moment(number - 1, position)
        return FilmFrame(leaving, current, self.transitions[number - 1], progress)

    def _moment(self, number: int, position: int) -> Moment:
        span = self.spans[number]
        return Moment(number, position - span.start, span.count, self.fps)

    def trimmed(self, first: int, length: int | None = None) -> Timeline:
        """The film from its frame `first` on, at most `length` frames long.

        Raises:
            VideoError: nothing would be left.
        """
        rest = self.frame_count - first
        kept = rest if length is None else min(length, rest)
        if first < 0 or kept < 1:
            raise VideoError(f"Trimming a film of {self.frame_count} frames leaves none of it.")
        return replace(self, first=self.first + first, length=kept)


def shot_seconds(shot: Shot, fps: Fraction) -> Fraction:
    """How long the shot lasts: its own duration, else that of its source at `fps`."""
    return shot.source.seconds(fps) if shot.duration is None else shot.duration
