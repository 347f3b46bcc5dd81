"""Cropping and resizing a film: another film, made at once; pictures change when they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .assemble import assemble
from .errors import VideoError
from .render import FilmSource
from .sound import sound_of_film
from .sources import Reader, Source
from .timeline import Moment, Shot, Timeline

# Names of ComfyUI's ways to resize -> those of Pillow's filters, which average when they shrink.
FILTERS = {
    "nearest-exact": "NEAREST",
    "bilinear": "BILINEAR",
    "area": "BOX",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
    "bislerp": "LANCZOS",
}


@dataclass(frozen=True, eq=False)
class Edited:
    """A part of another source, resized: crop (left, top, width, height), then (width, height)."""

    source: Source
    crop: tuple[int, int, int, int]
    shown: tuple[int, int]
    smooth: str

    def size(self) -> tuple[int, int]:
        return self.shown

    def seconds(self, fps: Fraction) -> Fraction:
        return self.source.seconds(fps)

    def open(self) -> Reader:
        return _EditedReader(self)


class _EditedReader:
    def __init__(self, edited: Edited) -> None:
        self._edited = edited
        self._reader = edited.source.open()
        self._whole: np.ndarray | None = None
        self._picture: np.ndarray | None = None

    def picture(self, moment: Moment) -> np.ndarray:
        whole = self._reader.picture(moment)
        if whole is not self._whole:
            self._whole = whole
            left, top, width, height = self._edited.crop
            self._picture = np.ascontiguousarray(whole[top : top + height, left : left + width])
            if (width, height) != self._edited.shown:
                self._resize()
        return self._picture

    def _resize(self) -> None:
        from PIL import Image

        smooth = Image.Resampling[FILTERS[self._edited.smooth]]
        image = Image.fromarray(self._picture).resize(self._edited.shown, smooth)
        self._picture = np.array(image)

    def close(self) -> None:
        self._whole = self._picture = None
        self._reader.close()


def cropped(film: Timeline, left: int, top: int, width: int, height: int) -> Timeline:
    """The part of a film inside a rectangle of its pixels.

    Raises:
        VideoError: the rectangle is empty or leaves the film.
    """
    inside = 0 <= left and 0 <= top and left + width <= film.width and top + height <= film.height
    if width < 1 or height < 1 or not inside:
        raise VideoError(
            f"A crop of {width}x{height} at {left}, {top} is not inside a film of"
            f" {film.width}x{film.height}: make it smaller."
        )
    return _edited(film, (left, top, width, height), (width, height), "lanczos")


def resized(film: Timeline, width: int, height: int, smooth: str, centred: bool) -> Timeline:
    """The film in another size; `centred` crops it to the new shape, otherwise it is stretched.

    Raises:
        VideoError: no such way to resize, or a size out of range.
    """
    if smooth not in FILTERS:
        raise VideoError(f"Unknown way to resize {smooth!r}: use one of {', '.join(FILTERS)}.")
    left = top = 0
    if centred and width > 0 and height > 0:  # rounded as ComfyUI rounds
        shape, wanted = film.width / film.height, width / height
        if shape > wanted:
            left = round((film.width - film.width * (wanted / shape)) / 2)
        elif shape < wanted:
            top = round((film.height - film.height * (shape / wanted)) / 2)
    crop = (left, top, film.width - 2 * left, film.height - 2 * top)
    return _edited(film, crop, (width, height), smooth)


def _edited(film: Timeline, crop, size: tuple[int, int], smooth: str) -> Timeline:
    source = Edited(FilmSource(film), crop, size, smooth)
    shot = Shot(source, film.seconds, sound=sound_of_film(film))
    return assemble([shot], film.fps, *size)
