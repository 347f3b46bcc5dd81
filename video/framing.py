"""From a picture of any size to a frame of the film: fit, camera window, one resampling.

The window may lie between pixels, so slow moves do not jitter, and what shrinks is filtered. torch
resamples 8 bit pictures five times as fast as Pillow, but only from whole pixels on; where a start
can be found that serves (`_start`) it does the moves. What needs no resampling is handed on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Move, Window
from .errors import VideoError

WHOLE_PIXEL = 1e-6  # pixels: closer than this, a window lies on the grid
LEAD = 256  # frame pixels before the window that may be made and thrown away
MARGIN = 256  # pixels before the picture, where its edge goes on
OFF = 1 / 100  # pixels of the picture by which a window may be off


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
        self._made = None

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
        self._frame = self._image = self._margin = None
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
        if self._camera is not None:
            frame = self._moved(window)
            if frame is not None:
                return frame
        from PIL import Image

        if self._image is None:
            self._image = _image(self._canvas)
        filters = Image.Resampling
        smooth = filters.LANCZOS if self._camera is None else filters.BICUBIC
        right = min(window.left + window.width, self._canvas.shape[1])
        bottom = min(window.top + window.height, self._canvas.shape[0])
        box = (max(window.left, 0.0), max(window.top, 0.0), right, bottom)
        return np.array(self._image.resize(self._size, smooth, box=box))

    def _moved(self, window: Window) -> np.ndarray | None:
        """The window by torch, with the kernel that Pillow calls bicubic; None where it cannot."""
        import torch

        steps = (window.width / self._size[0], window.height / self._size[1])
        starts = [
            _start(at, step) for at, step in zip((window.left, window.top), steps, strict=True)
        ]
        if None in starts:
            return None
        (left, extra_x), (top, extra_y) = starts
        if self._margin is None:
            edges = ((MARGIN, 0), (MARGIN, 0), (0, 0))
            self._margin = torch.from_numpy(np.pad(self._canvas, edges, mode="edge"))
        left, top = left + MARGIN, top + MARGIN
        shape = (self._size[1] + extra_y, self._size[0] + extra_x)
        reach = [
            int(start + (count + 4) * step) + 4
            for start, count, step in ((top, shape[0], steps[1]), (left, shape[1], steps[0]))
        ]
        part = self._margin[top : reach[0], left : reach[1]].contiguous().permute(2, 0, 1)[None]
        count = shape[0] * shape[1] * 3
        if self._made is None or len(self._made) < count:
            self._made = torch.empty(count, dtype=torch.uint8)  # kept: new memory costs as much
        made = self._made[:count].view(1, *shape, 3).permute(0, 3, 1, 2)
        with torch.inference_mode():
            torch.ops.aten._upsample_bicubic2d_aa.out(
                part, shape, False, 1 / steps[1], 1 / steps[0], out=made
            )
        return made[0, :, extra_y:, extra_x:].permute(1, 2, 0).numpy().copy()


def _start(at: float, step: float) -> tuple[int, int] | None:
    """(whole pixel, lead): `lead` frame pixels of size `step` after that pixel lies `at`.

    A frame that begins at the pixel and is `lead` longer holds the wanted one as its end. None
    where no pixel is near enough.
    """
    least = int(2 * max(1.0, step) / step) + 2  # the kernel looks that far before the window
    leads = np.arange(least, least + LEAD)
    candidates = at - leads * step
    off = np.abs(candidates - np.round(candidates))
    good = np.flatnonzero((off <= OFF) & (candidates >= -MARGIN))
    if not len(good):
        return None
    return int(round(candidates[good[0]])), int(leads[good[0]])


def size_to_read(
    fit: str, camera: Move | None, source: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int] | None:
    """The size in which a still camera needs the pictures of a source; None: as they are.

    Larger than the film by an even number of pixels where it is cropped, so that no resampling is
    left to do.
    """
    if camera is not None or source == size:
        return None
    if fit == "stretch":
        return size
    scales = [wanted / own for wanted, own in zip(size, source, strict=True)]
    if fit == "fit":
        return _inner(source, size)
    wide = (own * max(scales) for own in source)
    over = [2 * round((exact - side) / 2) for exact, side in zip(wide, size, strict=True)]
    return size[0] + max(0, over[0]), size[1] + max(0, over[1])


def _inner(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the source's shape inside another."""
    scale = min(size[0] / source[0], size[1] / source[1])
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


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
    inner = _inner((full_width, full_height), (width, height))
    if inner != (full_width, full_height):
        picture = np.array(_image(picture).resize(inner, Image.Resampling.LANCZOS))
    if inner == (width, height):
        return picture
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = picture
    return canvas
