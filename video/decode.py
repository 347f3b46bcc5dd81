"""Video files as pictures: decoded forward as the film plays, by each file's own colour tags."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from .errors import VideoError
from .rational import from_av
from .sources import VideoFile
from .timeline import Moment

logger = logging.getLogger(__name__)

SEEK_AHEAD = Fraction(4)  # seconds that are cheaper to decode than to seek over
# Bilinear, accurate rounding, chroma interpolated: libswscale's quick default darkens every
# picture by a level or more, at each generation.
SCALER = 0x2 | 0x40000 | 0x2000
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
LIMITED_RANGE = 1
# AVCOL_SPC_* -> the matrix libswscale knows. What is not tagged is read as BT.601, as FFmpeg and
# ComfyUI's own loader do, so both show the same colours.
UNTAGGED_MATRIX = 5
MATRIX_OF_TAG = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}


def file_label(file: str | bytes) -> str:
    return os.path.basename(file) if isinstance(file, str) else "the video in memory"


def open_input(file: str | bytes):
    """A PyAV input container.

    Raises:
        VideoError: missing, or not a media file.
    """
    import av

    try:
        return av.open(io.BytesIO(file) if isinstance(file, bytes) else file, mode="r")
    except (OSError, ValueError) as error:
        raise VideoError(f"{file_label(file)} cannot be read as a video: {error}") from error


def open_video(
    file: str | bytes, start: Fraction = Fraction(0), duration: Fraction | None = None
) -> VideoFile:
    """Look at a video file (path or content) and describe the part from `start` on.

    `duration` is in seconds, None for the rest of the file.

    Raises:
        VideoError: not a readable video, or the part is empty.
    """
    with open_input(file) as container:
        stream = _video_stream(container, file)
        frame = next(_frames(container, stream, file), None)
        if frame is None:
            raise VideoError(f"{file_label(file)} has no frame that can be decoded.")
        width, height = frame.width, frame.height
        if _quarter_turns(frame) % 2:
            width, height = height, width
        rate = from_av(stream.average_rate) or from_av(stream.base_rate)
        has_sound = any(s.codec_context is not None for s in container.streams.audio)
        whole = _whole_seconds(container, stream, rate)
    if whole is None:
        whole = _counted_seconds(file, rate)
    rest = whole - start
    if rest <= 0:
        raise VideoError(f"{file_label(file)} lasts {float(whole):g} s: start before that.")
    kept = rest if duration is None else min(duration, rest)
    return VideoFile(file, start, kept, width, height, rate, has_sound)


def _video_stream(container, file: str | bytes):
    if not container.streams.video:
        raise VideoError(f"{file_label(file)} has no video in it.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _whole_seconds(container, stream, rate: Fraction | None) -> Fraction | None:
    time_base = from_av(stream.time_base)
    if stream.duration and time_base:
        return stream.duration * time_base
    if stream.frames and rate:
        return stream.frames / rate
    if container.duration:
        return Fraction(container.duration, 1_000_000)
    return None


def _counted_seconds(file: str | bytes, rate: Fraction | None) -> Fraction:
    """The last resort: read every packet of a file whose header does not know its length."""
    with open_input(file) as container:
        stream = _video_stream(container, file)
        count = sum(1 for packet in container.demux(stream) if packet.size)
    return count / (rate or Fraction(24))


def _frames(container, stream, file: str | bytes) -> Iterator:
    """Decoded frames; a damaged packet is reported once and skipped, as players do."""
    import av

    warned = False
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            if not warned:
                logger.warning("%s has damaged frames, they are skipped.", file_label(file))
            warned = True


def _quarter_turns(frame) -> int:
    return round(getattr(frame, "rotation", 0) / 90)


class VideoReader:
    """Reads pictures by time. Going forward decodes each frame once; going back seeks."""

    def __init__(self, file: str | bytes, start: Fraction, duration: Fraction) -> None:
        from av.video.reformatter import VideoReformatter

        self._file = file
        self._start = start
        self._end = start + duration
        self._reformatter = VideoReformatter()
        self._container = open_input(file)
        self._stream = _video_stream(self._container, file)
        self._tick = from_av(self._stream.time_base) or Fraction(1, 1000)
        self._step = 1 / (from_av(self._stream.average_rate) or Fraction(24))
        self._origin = (self._stream.start_time or 0) * self._tick
        self._last_time = -self._step
        self._picture: np.ndarray | None = None
        self._rewind(Fraction(0))
        if start > SEEK_AHEAD:
            self._seek(start)

    def close(self) -> None:
        self._current = self._upcoming = self._picture = None
        self._container.close()

    def picture(self, moment: Moment) -> np.ndarray:
        time = self._start + moment.seconds
        if self._time > time and not (self._current is self._earliest and self._at_origin):
            self._seek(time)
        elif self._upcoming is not None and time - self._upcoming_time > SEEK_AHEAD:
            self._seek(min(time, self._end))
        while self._upcoming is not None and self._due(self._upcoming_time, time):
            self._current, self._time = self._upcoming, self._upcoming_time
            self._picture = None
            self._upcoming = self._decode()
        if self._picture is None:
            self._picture = self._rgb(self._current)
        return self._picture

    def _due(self, frame_time: Fraction, time: Fraction) -> bool:
        # Containers round times to their tick, so a frame may claim to begin half a tick late.
        half = self._tick / 2
        return frame_time - half <= time and frame_time < self._end - half

    def _seek(self, time: Fraction) -> None:
        self._rewind(time)
        if self._time > time and time > 0:  # the index led past the wanted frame
            self._rewind(Fraction(0))

    def _rewind(self, time: Fraction) -> None:
        import av

        if time > 0 or getattr(self, "_frames", None) is not None:
            try:
                self._container.seek(int((time + self._origin) / self._tick), stream=self._stream)
            except av.error.FFmpegError:  # cannot seek: start over
                self._container.close()
                self._container = open_input(self._file)
                self._stream = _video_stream(self._container, self._file)
        self._frames = _frames(self._container, self._stream, self._file)
        self._last_time = time - self._step
        self._current = self._decode()
        if self._current is None:
            raise VideoError(f"{file_label(self._file)} has no frame that can be decoded there.")
        self._time = self._upcoming_time
        self._earliest = self._current
        self._at_origin = time <= 0
        self._picture = None
        self._upcoming = self._decode()

    def _decode(self):
        """The next frame; its time goes to `_upcoming_time`. None at the end of the file."""
        frame = next(self._frames, None)
        if frame is not None:
            known = frame.pts is not None
            time = frame.pts * self._tick - self._origin if known else self._last_time + self._step
            self._upcoming_time = self._last_time = time
        return frame

    def _rgb(self, frame) -> np.ndarray:
        full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        converted = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=MATRIX_OF_TAG.get(int(frame.colorspace), UNTAGGED_MATRIX),
            # RGB has no matrix, but PyAV 16 ignores ours where this one looks the same.
            dst_colorspace=UNTAGGED_MATRIX,
            src_color_range=FULL_RANGE if full else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            interpolation=SCALER,
        )
        picture = converted.to_ndarray()
        turns = _quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns % 4 else picture
