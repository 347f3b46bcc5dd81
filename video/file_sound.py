"""The sound of a media file, decoded as it plays, every sample where the file's clock puts it.

A decoder that is fed a hole gives no samples for it, and what follows would move up: so sound is
taken in runs of frames that join, and each run lies at its own time, with silence between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

import numpy as np

from .feed import file_label, opened
from .notes import say
from .rational import from_av, nearest
from .sound import BLOCK, LAYOUTS, converted

GAP = Fraction(2, 1000)  # seconds; smaller ones are the rounding of containers
RUN_UP = (Fraction(1, 4), Fraction(5))  # seconds before a part: decoders need some, and seek badly


@dataclass(frozen=True, eq=False)
class FileSound:
    """`start` is where the part begins, `origin` the zero of both on the file's own clock."""

    file: str | bytes
    start: Fraction
    duration: Fraction
    rate: int
    channels: int
    origin: Fraction

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        begin = self.origin + self.start + start
        total = nearest((self.duration - start) * rate)
        with opened(self.file) as container:
            frames = self._frames_from(container, begin)
            written = 0
            for time, run in groupby(frames, key=_Clock()):
                at = nearest((time - begin) * rate)
                for block in converted(run, rate, channels):
                    end = at + block.shape[1]
                    while written < min(at, total):  # a hole
                        silent = min(at, total, written + BLOCK) - written
                        yield np.zeros((channels, silent), np.float32)
                        written += silent
                    kept = block[:, max(0, written - at) : max(0, total - at)]
                    if kept.shape[1]:
                        yield kept
                        written += kept.shape[1]
                    at = end
                if written >= total:
                    return

    def broken(self, start: Fraction, stop: Fraction) -> tuple[bool, Fraction | None]:
        return self.start + start > 0, min(stop, self.duration)

    def _frames_from(self, container, begin: Fraction) -> Iterator:
        """Decoded frames that begin at or before `begin`, unless the sound itself begins later."""
        stream = audio_stream(container)
        base = from_av(stream.time_base) or Fraction(1, self.rate)
        for run_up in RUN_UP:
            if begin - self.origin <= run_up:
                break
            try:
                container.seek(int((begin - run_up) / base), stream=stream)
            except OSError:
                break
            frames = self._decoded(container, stream)
            first = next(frames, None)
            if first is not None and frame_time(first) <= begin:
                yield first
                yield from frames
                return
        with opened(self.file) as again:
            yield from self._decoded(again, audio_stream(again))

    def _decoded(self, container, stream) -> Iterator:
        """Frames with a time, without what is damaged or no number."""
        import av

        packets = container.demux(stream)
        damaged = False
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except (av.error.InvalidDataError, av.error.UndefinedError, av.error.BugError):
                if not damaged:
                    say(f"{file_label(self.file)} has damaged sound, it is silent there.")
                damaged = True
                continue
            except av.error.FFmpegError as error:
                say(f"The sound of {file_label(self.file)} cannot be read further: {error}")
                return
            for frame in frames:
                if frame.pts is not None:
                    yield _finite(frame, file_label(self.file))


class _Clock:
    """Called with one frame after the other: the time of the first frame of its run."""

    def __init__(self) -> None:
        self._run = self._next = None
        self._shape: tuple | None = None

    def __call__(self, frame) -> Fraction:
        time = frame_time(frame)
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._next is None or abs(time - self._next) > GAP or shape != self._shape:
            self._run = self._next = time
            self._shape = shape
        self._next += Fraction(frame.samples, frame.sample_rate)
        return self._run


def frame_time(frame) -> Fraction:
    """Seconds on the file's own clock."""
    return frame.pts * (from_av(frame.time_base) or Fraction(1, frame.sample_rate))


def _finite(frame, label: str):
    """The frame itself, or a copy that is silent where samples are not numbers."""
    import av

    if not frame.format.name.startswith(("flt", "dbl")):
        return frame
    samples = frame.to_ndarray()
    good = np.isfinite(samples)
    if good.all():
        return frame
    say(f"{label} has sound samples that are not numbers: they are silent.")
    clean = av.AudioFrame.from_ndarray(
        np.where(good, samples, 0).astype(samples.dtype), frame.format.name, frame.layout.name
    )
    clean.sample_rate, clean.pts, clean.time_base = frame.sample_rate, frame.pts, frame.time_base
    return clean


def sound_of_file(
    file: str | bytes, start: Fraction, duration: Fraction, origin: Fraction | None = None
) -> FileSound | None:
    """The sound of a media file, or None where it has none that can be decoded.

    `origin` is that of the file's picture (`VideoFile.origin`); None looks it up.
    """
    from .decode import open_video
    from .scan import MICROSECOND

    with opened(file) as container:
        stream = audio_stream(container)
        if stream is None or not stream.rate:
            return None
        channels = stream.codec_context.layout.nb_channels
        if origin is None and not container.streams.video:
            origin = (container.start_time or 0) * MICROSECOND
        rate = stream.rate
    if origin is None:
        origin = open_video(file).origin
    known = channels if channels in LAYOUTS else 2
    return FileSound(file, start, duration, rate, known, origin)


def audio_stream(container):
    return next((s for s in container.streams.audio if s.codec_context is not None), None)
