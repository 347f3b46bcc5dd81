"""Where pictures come from: in memory, in a folder, in a video file. Read only when asked for.

A source is a description that can be kept and shared; `open` gives a reader that may hold a
decoder and belongs to one renderer. Every picture is uint8 (height, width, 3), sRGB, and must not
be written to. A reader returns the very same array while the picture does not change: that is how
held pictures cost nothing further down.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .errors import VideoError
from .timeline import Moment

if TYPE_CHECKING:
    import torch

    from .scan import Scan

STILL_SECONDS = Fraction(3)  # how long a single picture shows when nobody says
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".avif", ".apng"),
)
ANIMATIONS = ("GIF", "WEBP", "AVIF", "PNG")  # formats whose frames are shown one after another
STRIP_ROWS = 64  # float rows converted at a time: they stay in the processor's cache


class Reader(Protocol):
    def picture(self, moment: Moment) -> np.ndarray: ...

    def close(self) -> None: ...


class Source(Protocol):
    def size(self) -> tuple[int, int]:
        """(width, height) of the first picture, in pixels."""
        ...

    def seconds(self, fps: Fraction) -> Fraction:
        """The natural length in a film of `fps` frames per second."""
        ...

    def open(self) -> Reader: ...


# --- pictures by number: batches and folders ------------------------------------------------------


class _NumberedReader:
    """Numbered pictures, the newest one remembered.

    With a rate they play at it and the last one stays; without one they spread evenly over the
    frames of the shot.
    """

    def __init__(
        self, count: int, rate: Fraction | None, load: Callable[[int], np.ndarray]
    ) -> None:
        self._count = count
        self._rate = rate
        self._load = load
        self._number = -1
        self._picture: np.ndarray | None = None

    def picture(self, moment: Moment) -> np.ndarray:
        if self._rate is None:
            number = moment.index * self._count // moment.count
        else:
            number = min(int(moment.seconds * self._rate), self._count - 1)
        if number != self._number:
            self._picture = self._load(number)
            self._number = number
        return self._picture

    def close(self) -> None:
        self._picture = None
        if hasattr(self._load, "close"):
            self._load.close()


def _natural_seconds(count: int, rate: Fraction | None, fps: Fraction) -> Fraction:
    if rate is None and count == 1:
        return STILL_SECONDS
    return count / (rate or fps)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A still or a batch held as uint8: a quarter of the memory of the float tensor before."""

    pictures: np.ndarray  # (count, height, width, 3) uint8
    rate: Fraction | None = None  # own frames per second; None takes the film's

    def size(self) -> tuple[int, int]:
        return self.pictures.shape[2], self.pictures.shape[1]

    def seconds(self, fps: Fraction) -> Fraction:
        return _natural_seconds(len(self.pictures), self.rate, fps)

    def open(self) -> Reader:
        return _NumberedReader(len(self.pictures), self.rate, self.pictures.__getitem__)


@dataclass(frozen=True, eq=False)
class TensorPictures:
    """A float batch that somebody else keeps anyway: quantised frame by frame, never copied."""

    images_bhwc: torch.Tensor  # (count, height, width, 1|3|4), [0, 1]
    rate: Fraction | None = None

    def size(self) -> tuple[int, int]:
        return self.images_bhwc.shape[2], self.images_bhwc.shape[1]

    def seconds(self, fps: Fraction) -> Fraction:
        return _natural_seconds(len(self.images_bhwc), self.rate, fps)

    def open(self) -> Reader:
        count = len(self.images_bhwc)
        return _NumberedReader(count, self.rate, lambda n: quantised(self.images_bhwc[n]))


def quantised(image_hwc: torch.Tensor, out: np.ndarray | None = None) -> np.ndarray:
    """A float picture (height, width, 1|3|4) in [0, 1] as uint8 (height, width, 3).

    Rounds to the nearest level; clamps what lies outside [0, 1]; NaN becomes black; alpha is laid
    over black. Works in strips that stay in the processor's cache.
    """
    height, width, channels = image_hwc.shape
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    image = image_hwc.detach().float().cpu().numpy()
    levels = np.empty((STRIP_ROWS, width, min(channels, 3)), np.float32)
    for row in range(0, height, STRIP_ROWS):
        strip = image[row : row + STRIP_ROWS]
        part = levels[: len(strip)]
        if channels == 4:
            strip = strip[..., :3] * np.clip(strip[..., 3:], 0, 1)
        np.multiply(strip, np.float32(255), out=part)
        np.rint(part, out=part)
        np.fmin(np.fmax(part, 0, out=part), 255, out=part)  # these two take NaN for the bound
        out[row : row + STRIP_ROWS] = part
    return out


def batch_of_tensor(images_bhwc: torch.Tensor) -> Pictures | TensorPictures:
    """A still, quantised at once, or a batch, quantised as it plays, beside the encoder.

    Raises:
        VideoError: not a batch of pictures, or empty.
    """
    _check_batch(images_bhwc)
    if len(images_bhwc) == 1:
        return pictures_from_tensor(images_bhwc)
    return TensorPictures(images_bhwc)


def _check_batch(images_bhwc: torch.Tensor) -> None:
    shape = tuple(images_bhwc.shape)
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape:
        raise VideoError(f"Expected images (count, height, width, 1, 3 or 4), got {shape}.")


def pictures_from_tensor(images_bhwc: torch.Tensor) -> Pictures:
    """A still or batch (count, height, width, 1|3|4) in [0, 1], quantised once.

    Raises:
        VideoError: not a batch of pictures, or empty.
    """
    _check_batch(images_bhwc)
    pictures = np.empty((*images_bhwc.shape[:3], 3), np.uint8)
    for number, image in enumerate(images_bhwc):
        quantised(image, pictures[number])
    return Pictures(pictures)


@dataclass(frozen=True)
class PictureFiles:
    """Picture files in showing order, decoded one at a time; an animation gives all its frames."""

    paths: tuple[Path, ...]  # one per picture shown
    frames: tuple[int, ...] = ()  # which frame of its file each one is; none given: the first
    rate: Fraction | None = None

    def size(self) -> tuple[int, int]:
        return picture_size(self.paths[0])

    def seconds(self, fps: Fraction) -> Fraction:
        return _natural_seconds(len(self.paths), self.rate, fps)

    def open(self) -> Reader:
        return _NumberedReader(len(self.paths), self.rate, _FileLoader(self))


class _FileLoader:
    """Loads pictures by number. An animation stays open, since each frame builds on the last."""

    def __init__(self, files: PictureFiles) -> None:
        self._files = files
        self._path: Path | None = None
        self._image = None

    def __call__(self, number: int) -> np.ndarray:
        path = self._files.paths[number]
        frame = self._files.frames[number] if self._files.frames else 0
        if not frame and self._files.paths[number + 1 : number + 2] != (path,):
            return load_picture(path)
        if path != self._path or frame < self._image.tell():  # Pillow cannot rewind an APNG
            self.close()
            self._image, self._path = _opened(path), path
        return _pixels(self._image, path, frame)

    def close(self) -> None:
        if self._image is not None:
            self._image.close()
        self._image = self._path = None


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def pictures_in_folder(folder: str | os.PathLike) -> PictureFiles:
    """The pictures directly inside `folder`, in natural order. Hidden files are left out.

    Raises:
        VideoError: no such folder, no picture in it, or a file that is no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        raise VideoError(f"Folder {root.name!r} does not exist.")
    paths = sorted(
        (
            path
            for path in root.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: natural_key(path.name),
    )
    if not paths:
        kinds = " ".join(PICTURE_SUFFIXES)
        raise VideoError(f"No pictures in folder {root.name!r}: put frames there ({kinds}).")
    shown: list[tuple[Path, int]] = []
    for path in paths:
        picture_size(path)  # reads the header only: a wrong file is named before any work starts
        shown += [(path, frame) for frame in range(frame_count(path))]
    return PictureFiles(tuple(path for path, _ in shown), tuple(frame for _, frame in shown))


def _opened(path: Path):
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        picture = _by_ffmpeg(path)  # knows TIFF of float colours, and AVIF where Pillow does not
        if picture is not None:
            return Image.fromarray(picture)
        raise VideoError(f"{path.name} is not a readable picture: replace or remove it.") from error


def _by_ffmpeg(path: Path) -> np.ndarray | None:
    """The first frame of a kind of picture that Pillow may not read, None where it is none."""
    import av

    from .colour import Converter

    if path.suffix.lower() not in (".tif", ".tiff", ".avif"):
        return None
    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            if "f32" in frame.format.name:
                return _levels(frame.to_ndarray())
            return Converter(frame.width, frame.height, 0).picture(frame)
    except (av.error.FFmpegError, ValueError, StopIteration):
        return None


def frame_count(path: Path) -> int:
    """Frames of an animation, 1 for any other picture."""
    with _opened(path) as image:
        return getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) as shown, that is after the EXIF rotation. Reads the header only."""
    with _opened(path) as image:
        # Without an EXIF block, getexif would read all of a PNG to look for one behind the pixels.
        known = "exif" in image.info or image.format == "TIFF"
        turned = known and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def load_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 (height, width, 3): EXIF rotation applied, alpha laid over black.

    Of an animation the first frame.

    Raises:
        VideoError: the file is damaged.
    """
    with _opened(path) as image:
        return _pixels(image, path)


def _pixels(image, path: Path, frame: int = 0) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        if frame:
            image.seek(frame)
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise VideoError(f"{path.name} is damaged: replace or remove it.") from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit: Pillow's own conversion would clip, not scale
        wide = np.asarray(image).astype(np.int64)
        grey = np.clip((wide * 255 + 32767) // 65535, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        return np.repeat(_levels(np.asarray(image))[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _levels(samples: np.ndarray) -> np.ndarray:
    """Float samples as 0..255: they are in [0, 1], unless they are whole numbers, then levels."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=0.0).astype(np.float32)
    largest = float(samples.max(initial=0.0))
    if largest > 1 and np.array_equal(samples, np.round(samples)):
        samples = samples / (255 if largest <= 255 else 65535)
    return np.clip(samples * 255 + 0.5, 0, 255).astype(np.uint8)


# --- pictures by time: video files ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A video file, decoded as it plays. Make one with `open_video`."""

    file: str | bytes  # a path, or the file itself
    start: Fraction  # seconds into the file
    duration: Fraction  # seconds
    width: int
    height: int
    rate: Fraction | None  # frames per second at which none is lost
    has_sound: bool
    origin: Fraction  # where the film of the file begins, in seconds of the file's own clock
    scan: Scan

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def seconds(self, fps: Fraction) -> Fraction:
        return self.duration

    def open(self, size: tuple[int, int] | None = None) -> Reader:
        """A reader of pictures of this size, scaled on the way; None is the file's own."""
        from .decode import VideoReader

        return VideoReader(self, size)
