"""A film as a core VIDEO: its frames are made when somebody asks for them, and not before.

Every question about the film (size, length, rate) is answered from the timeline at once. Saving
streams frame by frame, so memory does not grow with length. Trimming moves two numbers.
"""

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import IO, Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import Input, Types

from ...video import (
    REWRITABLE,
    NameTaken,
    Preset,
    Renderer,
    Timeline,
    VideoError,
    cropped,
    encode,
    mix,
    nearest,
    preset_named,
    resized,
    rewrite,
    sample_count,
    sound_format,
    whole_file,
    with_quality,
    with_speed,
)

logger = logging.getLogger(__name__)

PRESET_OF_CODEC = {
    "h264": "h264",
    "h265": "h265",
    "hevc": "h265",
    "av1": "av1",
    "vp9": "vp9",
    "prores": "prores",
    "ffv1": "ffv1",
}
MUXERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm"}
OUR_COLOURS = ("auto", "none", "srgb", "sdr", "bt709", "bt.709", "rec709")
HDR_COLOURS = ("hdr", "hdr pq")  # core's words: asked for, and written as what a film is
WEBM_SOUND = "libopus"  # WebM takes no AAC
IMAGE_BYTES = 4  # a float32 sample of an IMAGE
MEMORY_SHARE = 0.9  # of the free memory that an IMAGE may take


@dataclass(frozen=True)
class _Saved:
    """A file this film was written to, and how to tell that nobody changed it."""

    settings: tuple[Preset, str]  # preset and muxer
    metadata: str  # a digest
    path: str
    stamp: tuple[int, int]

    def untouched(self) -> bool:
        try:
            return _stamp(self.path) == self.stamp
        except OSError:
            return False


def _digest(metadata: Mapping[str, Any] | None) -> str:
    text = json.dumps(metadata or {}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


class LazyVideo(Input.Video):
    """A `video.Timeline` behind core's VIDEO interface."""

    def __init__(self, film: Timeline) -> None:
        self.film = film
        self._saved: list[_Saved] = []
        self._stream_source: str | None = None

    # -- what is known without making a frame ------------------------------------------------------

    def get_dimensions(self) -> tuple[int, int]:
        return self.film.width, self.film.height

    def get_frame_count(self) -> int:
        return self.film.frame_count

    def get_frame_rate(self) -> Fraction:
        return self.film.fps

    def get_duration(self) -> float:
        return float(self.film.seconds)

    def get_bit_depth(self) -> int:
        return 8

    def get_color_space(self) -> str:
        return "auto"

    def get_container_format(self) -> str:
        return "mp4"

    def get_display_dimensions(self) -> tuple[int, int]:
        return self.get_dimensions()

    def has_pending_frame_edits(self) -> bool:
        return False  # what we stream is cropped and resized already

    def get_active_trim_window(self) -> tuple[float, float]:
        return 0.0, 0.0  # what we stream is trimmed already

    def as_trimmed(
        self,
        start_time: float | None = None,
        duration: float | None = None,
        strict_duration: bool = False,
    ) -> "LazyVideo | None":
        """The film from `start_time` seconds (negative: from the end), to its end for duration 0.

        None where nothing would be left, or, if strict, less than `duration`.
        """
        film = self.film
        first = _frames(start_time, film.fps)
        if first < 0:
            first = max(0, film.frame_count + first)
        wanted = max(1, _frames(duration, film.fps)) if duration else None
        rest = film.frame_count - first
        if rest < 1 or (strict_duration and wanted is not None and wanted > rest):
            return None
        return LazyVideo(film.trimmed(first, wanted))

    def as_cropped(self, x: int = 0, y: int = 0, width: int = 0, height: int = 0) -> "LazyVideo":
        """The film inside a rectangle, moved into the frame and onto even pixels as core does.

        An empty rectangle, or one of the whole frame, changes nothing.
        """
        film = self.film
        if width <= 0 or height <= 0:
            return self
        left, top = (
            max(0, min(int(at), side - 1)) for at, side in ((x, film.width), (y, film.height))
        )
        left, top = left - left % 2, top - top % 2
        width, height = min(int(width), film.width - left), min(int(height), film.height - top)
        if (width, height) == (film.width, film.height):
            return self
        width, height = width - width % 2, height - height % 2
        if not width or not height:
            return self
        return LazyVideo(cropped(film, left, top, width, height))

    def as_resized(
        self,
        width: int,
        height: int,
        upscale_method: str = "lanczos",
        crop: str = "disabled",
        post_crop: tuple[int, int, int, int] | None = None,
    ) -> "LazyVideo":
        """The film in another size, and then, with `post_crop`, a rectangle of that.

        Raises:
            VideoError: no such method, a size out of range, a rectangle outside of the film.
        """
        film = resized(self.film, int(width), int(height), str(upscale_method), crop == "center")
        if post_crop is not None:
            film = cropped(film, *(int(value) for value in post_crop))
        return LazyVideo(film)

    # -- frames and files --------------------------------------------------------------------------

    def get_components(self) -> Types.VideoComponents:
        """All frames as one IMAGE, and the sound.

        Raises:
            VideoError: that IMAGE would not fit into memory.
        """
        film = self.film
        shape = (film.frame_count, film.height, film.width, 3)
        _refuse_if_too_large(shape)
        images = torch.empty(shape, dtype=torch.float32)
        progress = FilmProgress(film.frame_count)
        with Renderer(film) as renderer:
            for index, picture in enumerate(renderer.frames()):
                np.divide(picture, np.float32(255), out=images[index].numpy(), dtype=np.float32)
                progress(index + 1, film.frame_count)
        return Types.VideoComponents(images=images, frame_rate=film.fps, audio=_audio(film))

    def get_stream_source(self) -> str:
        """A file to read the film from, in ComfyUI's temp folder; encoded once."""
        if self._stream_source is None or not os.path.isfile(self._stream_source):
            folder = folder_paths.get_temp_directory()
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, f"troupe_{uuid.uuid4().hex}.mp4")
            self.write(path, preset_named("h264"))
            self._stream_source = path
        return self._stream_source

    def save_to(
        self,
        path: str | os.PathLike | IO[bytes],
        format: str = "auto",
        codec: str = "auto",
        metadata: Mapping[str, Any] | None = None,
        bit_depth: int | None = None,
        crf: float | None = None,
        **extra: Any,
    ) -> None:
        """Write the film as core's Save Video asks for it. Keywords of later cores are tolerated.

        Raises:
            VideoError: a container, codec or colour space we cannot write, or see `video.encode`.
        """
        colours = _word(extra.pop("color_space", None))
        if colours in HDR_COLOURS:
            logger.warning("A film is SDR: it is saved in BT.709 though %s was asked for.", colours)
        elif colours not in OUR_COLOURS:
            raise VideoError(f"Color space {colours!r} is not supported: films are BT.709.")
        speed = _word(extra.pop("preset", None))
        for name, value in extra.items():
            if value is not None and _word(value) != "auto":
                logger.warning("Saving a film ignores the unknown setting %s.", name)
        preset, muxer = _chosen(path, _word(format), _word(codec))
        preset = with_speed(preset, None if speed == "auto" else speed)
        self.write(path, with_quality(preset, crf, bit_depth), muxer, metadata)

    def write(
        self,
        target: str | os.PathLike | IO[bytes],
        preset: Preset,
        muxer: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        new: bool = False,
    ) -> None:
        """Encode the film, or copy what an earlier call encoded with the same settings.

        Other metadata (the prompt, which differs each time) only needs the packets copied.

        Args:
            new: see `video.whole_file`.
        """
        muxer = muxer or preset.container
        if not isinstance(target, (str, os.PathLike)):
            self._encode(target, preset, muxer, metadata)
            return
        path = os.path.abspath(os.fspath(target))
        described = _digest(metadata)
        earlier = self._earlier((preset, muxer), described)
        if earlier is None or not self._copied(earlier, path, muxer, metadata, new):
            self._encode(path, preset, muxer, metadata, new)
        self._saved = [saved for saved in self._saved if saved.path != path]
        self._saved.append(_Saved((preset, muxer), described, path, _stamp(path)))

    def _earlier(self, settings: tuple[Preset, str], described: str) -> _Saved | None:
        """A file to copy, best one with the same metadata."""
        usable = [s for s in self._saved if s.settings == settings and s.untouched()]
        best = max(usable, key=lambda saved: saved.metadata == described, default=None)
        if best and best.metadata != described and settings[1] not in REWRITABLE:
            return None
        return best

    def _copied(
        self, earlier: _Saved, path: str, muxer: str, metadata: Mapping[str, Any] | None, new: bool
    ) -> bool:
        """Whether an earlier file could serve; one that cannot be read is made anew."""
        from av.error import FFmpegError

        try:
            if earlier.metadata != _digest(metadata):
                rewrite(earlier.path, path, muxer, metadata, new)
            elif earlier.path != path:
                with open(earlier.path, "rb") as source, whole_file(path, new) as part:
                    with open(part, "wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
        except (NameTaken, VideoError):  # of the new file, which encoding would meet as well
            raise
        except (OSError, ValueError, FFmpegError) as error:
            logger.warning("%s cannot be copied (%s): encoding anew.", earlier.path, error)
            return False
        return True

    def _encode(
        self,
        target: str | IO[bytes],
        preset: Preset,
        muxer: str,
        metadata: Mapping[str, Any] | None,
        new: bool = False,
    ) -> None:
        encode(
            self.film,
            target,
            preset,
            container=muxer,
            metadata=metadata,
            progress=FilmProgress(self.film.frame_count),
            new=new,
        )


class FilmProgress:
    """Moves the bar of the node that runs; raises there when the user cancels."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)


def _frames(time: float | None, fps: Fraction) -> int:
    return nearest(Fraction(str(time)) * fps) if time else 0


def _word(value: Any) -> str:
    """A keyword that may come as text, as an enum of text, or not at all."""
    return str(getattr(value, "value", value) or "auto").lower()


def _chosen(path: object, container: str, codec: str) -> tuple[Preset, str]:
    """The preset and FFmpeg muxer for core's words; the file's own ending decides on "auto"."""
    if container == "auto" and isinstance(path, (str, os.PathLike)):
        container = os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
    if container in ("auto", ""):
        container = "mp4"
    if container not in MUXERS:
        raise VideoError(f"Cannot write {container!r} files: use one of {', '.join(MUXERS)}.")
    if codec == "auto":
        codec = "vp9" if container == "webm" else "h264"
    if codec not in PRESET_OF_CODEC:
        known = ", ".join(PRESET_OF_CODEC)
        raise VideoError(f"Cannot write codec {codec!r}: use one of {known}.")
    preset = preset_named(PRESET_OF_CODEC[codec])
    if container == "webm":
        preset = replace(preset, audio_codec=WEBM_SOUND)
    return preset, MUXERS[container]


def _refuse_if_too_large(shape: tuple[int, int, int, int]) -> None:
    count, height, width, channels = shape
    needed = count * height * width * channels * IMAGE_BYTES
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if needed > free * MEMORY_SHARE:
        raise VideoError(
            f"{count} frames of {width}x{height} as images need {needed / 1e9:.1f} GB and"
            f" {free / 1e9:.1f} GB are free: trim the film first (Trim Video), make it smaller,"
            " or save it with Save Film, which needs no images."
        )


def _audio(film: Timeline) -> dict[str, Any] | None:
    shape = sound_format(film)
    if shape is None:
        return None
    rate, channels = shape
    waveform = np.empty((channels, sample_count(film, rate)), np.float32)
    at = 0
    for block in mix(film, rate, channels):
        waveform[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    return {"waveform": torch.from_numpy(waveform)[None], "sample_rate": rate}
