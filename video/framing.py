"""From a picture of any size to a frame of the film: fit, camera window, one resampling.

The window may lie between pixels, so slow moves do not jitter; Pillow's resampling takes such
windows exactly and filters when it shrinks. What needs no resampling is copied or handed on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Move, Window
from .errors import VideoError

WHOLE_PIXEL = 1e-6  # pixels: closer than this, a window lies on the grid


@dataclass(frozen=True)
class Fit:
    name: str
    help: str


FITS = {
    fit.name: fit
    for fit in (
        Fit("fill", "fills the frame, crops what does not fit"),
        Fit("fit", "shows the whole picture, black bars where it does not fill"),
        Fit("stretch", "shows the whole picture, distorted to the film's shape"),
    )
}


class Framer:
    """Makes the frames of one shot. Gives back the same array while nothing changes."""

    def __init__(self, fit: str, camera: Move | None, width: int, height: int) -> None:
        if fit not in FITS:
            raise VideoError(f"Unknown fit {fit!r}: use one of {', '.join(FITS)}.")
        self._fit = fit
        self._camera = camera
        self._size = (width, height)
        self._picture: np.ndarray | None = None
        self._window: Window | None = None
        self._frame: np.ndarray | None = None

    def frame(self, picture: np.ndarray, progress: float) -> np.ndarray:
        """The frame (film height, film width, 3) of a picture at `progress` [0, 1] of the shot."""
        if picture is not self._picture:
            self._prepare(picture)
        widest = _widest(self._fit, *self._extent, self._size)
        window = widest
        if self._camera is not None:
            window = self._camera.window(progress, widest, *self._extent)
        if self._frame is None or window != self._window:
            self._window = window
            self._frame = self._resampled(window)
        return self._frame

    def _prepare(self, picture: np.ndarray) -> None:
        self._picture = picture
        self._frame = self._image = None
        self._canvas = picture
        if self._fit == "fit":
            self._canvas = _letterboxed(picture, *self._canvas_size())
        elif self._camera is not None:
            self._shrink()
            return
        self._extent = (self._canvas.shape[1], self._canvas.shape[0])

    def _canvas_size(self) -> tuple[int, int]:
        """Large enough that the camera's closest view still has a pixel for each of its own."""
        zoom = max(self._camera.start.zoom, self._camera.end.zoom) if self._camera else 1.0
        return round(self._size[0] * zoom), round(self._size[1] * zoom)

    def _shrink(self) -> None:
        """Average a picture that is far too large once, instead of at every frame of a move."""
        height, width = self._picture.shape[:2]
        widest = _widest(self._fit, width, height, self._size)
        zoom = max(self._camera.start.zoom, self._camera.end.zoom)
        factor = int(min(widest.width / self._size[0], widest.height / self._size[1]) / zoom)
        factor = max(1, factor // 2)  # leave two pixels per pixel for the last step
        if factor > 1:
            self._canvas = np.array(_image(self._picture).reduce(factor))
        # The last column may stand for less than `factor` pixels; the picture ends inside it.
        self._extent = (width / factor, height / factor)

    def _resampled(self, window: Window) -> np.ndarray:
        width, height = self._size
        left, top = round(window.left), round(window.top)
        off_grid = max(
            abs(window.width - width),
            abs(window.height - height),
            abs(window.left - left),
            abs(window.top - top),
        )
        if off_grid < WHOLE_PIXEL:
            if self._canvas.shape[:2] == (height, width):
                return self._canvas
            return np.ascontiguousarray(self._canvas[top : top + height, left : left + width])
        from PIL import Image

        if self._image is None:
            self._image = _image(self._canvas)
        filters = Image.Resampling
        smooth = filters.LANCZOS if self._camera is None else filters.BICUBIC
        right = min(window.left + window.width, self._canvas.shape[1])
        bottom = min(window.top + window.height, self._canvas.shape[0])
        box = (max(window.left, 0.0), max(window.top, 0.0), right, bottom)
        return np.array(self._image.resize(self._size, smooth, box=box))


def _image(picture: np.ndarray):
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture))


def _widest(fit: str, width: float, height: float, size: tuple[int, int]) -> Window:
    """The largest centred window of the film's shape; all of the picture where that may distort."""
    if fit != "fill":
        return Window(0.0, 0.0, float(width), float(height))
    scale = min(width / size[0], height / size[1])
    window_width, window_height = size[0] * scale, size[1] * scale
    return Window(
        (width - window_width) / 2, (height - window_height) / 2, window_width, window_height
    )


def _letterboxed(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The whole picture centred on black, scaled to touch two sides; its edges lie on pixels."""
    from PIL import Image

    full_height, full_width = picture.shape[:2]
    scale = min(width / full_width, height / full_height)
    inner = (max(1, round(full_width * scale)), max(1, round(full_height * scale)))
    if inner != (full_width, full_height):
        picture = np.array(_image(picture).resize(inner, Image.Resampling.LANCZOS))
    if inner == (width, height):
        return picture
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = picture
    return canvas
