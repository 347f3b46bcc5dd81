"""Frames of a film, made when asked for. Holds no more than the two shots that show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .framing import Framer, size_to_read
from .sources import Reader, VideoFile
from .timeline import Moment, Shot, Timeline
from .transitions import blend


class Renderer:
    """Makes frame i of a film: uint8 (height, width, 3), sRGB, not to be written to.

    Any order works; going forward is what costs least. While the picture does not change the very
    same array comes back. Use it in one thread, and close it (or use `with`).
    """

    def __init__(self, film: Timeline) -> None:
        self._film = film
        self._open: dict[int, _OpenShot] = {}

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for shot in self._open.values():
            shot.close()
        self._open.clear()

    def frame(self, index: int) -> np.ndarray:
        """
        Raises:
            IndexError: the film has no such frame.
        """
        at = self._film.frame_at(index)
        moments = [at.showing] if at.entering is None else [at.showing, at.entering]
        for number in set(self._open) - {moment.shot for moment in moments}:
            self._open.pop(number).close()
        pictures = [self._shot(moment.shot).frame(moment) for moment in moments]
        if at.entering is None:
            return pictures[0]
        return blend(*pictures, at.transition, at.progress)

    def frames(self) -> Iterator[np.ndarray]:
        for index in range(self._film.frame_count):
            yield self.frame(index)

    def _shot(self, number: int) -> _OpenShot:
        if number not in self._open:
            film = self._film
            self._open[number] = _OpenShot(film.shots[number], film.width, film.height)
        return self._open[number]


class _OpenShot:
    """A shot while it shows: its reader, its framing, its effects."""

    def __init__(self, shot: Shot, width: int, height: int) -> None:
        self._effects = shot.effects
        self._framer = Framer(shot.fit, shot.camera, width, height)
        source = shot.source
        if isinstance(source, VideoFile):  # scaled while it is converted, which costs nothing more
            size = size_to_read(shot.fit, shot.camera, source.size(), (width, height))
            self._reader: Reader = source.open(size)
        else:
            self._reader = source.open()

    def frame(self, moment: Moment) -> np.ndarray:
        picture = self._framer.frame(self._reader.picture(moment), moment.progress)
        for effect in self._effects:
            picture = effect(picture, moment)
        return picture

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True, eq=False)
class FilmSource:
    """A film as the source of a shot: rendered on the way, never encoded in between."""

    film: Timeline

    def size(self) -> tuple[int, int]:
        return self.film.width, self.film.height

    def seconds(self, fps: Fraction) -> Fraction:
        return self.film.seconds

    def open(self) -> Reader:
        return _FilmReader(self.film)


class _FilmReader:
    def __init__(self, film: Timeline) -> None:
        self._film = film
        self._renderer = Renderer(film)
        self._number = -1
        self._picture: np.ndarray | None = None

    def picture(self, moment: Moment) -> np.ndarray:
        number = min(int(moment.seconds * self._film.fps), self._film.frame_count - 1)
        if number != self._number:
            self._picture = self._renderer.frame(number)
            self._number = number
        return self._picture

    def close(self) -> None:
        self._renderer.close()
