"""The sound of a film: the film's own track and the sound of its shots, mixed block by block.

Positions are computed from frame boundaries, so sound and pictures share one clock however long the
film is. Samples are float32 (channels, count) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from .errors import VideoError
from .rational import nearest
from .timeline import Timeline

BLOCK = 4096  # samples mixed at a time
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
RATE_RANGE = (4_000, 384_000)


class Sound(Protocol):
    rate: int  # samples per second
    channels: int  # a key of LAYOUTS

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        """Samples from `start` seconds on, converted, in blocks of any length."""
        ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Sound in memory."""

    samples: np.ndarray  # (channels, count) float32
    rate: int

    def __post_init__(self) -> None:
        shape = self.samples.shape
        if len(shape) != 2 or shape[0] not in LAYOUTS:
            raise VideoError(f"Sound must be (1, 2 or 6 channels, samples), got {shape}.")
        if not RATE_RANGE[0] <= self.rate <= RATE_RANGE[1]:
            raise VideoError(f"A sample rate of {self.rate} is out of range {RATE_RANGE}.")

    @property
    def channels(self) -> int:
        return self.samples.shape[0]

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        first = nearest(start * self.rate)
        pieces = (
            self.samples[:, at : at + BLOCK] for at in range(first, self.samples.shape[1], BLOCK)
        )
        if (rate, channels) == (self.rate, self.channels):
            yield from pieces
            return
        yield from _converted((_frame(piece, self.rate) for piece in pieces), rate, channels)


@dataclass(frozen=True, eq=False)
class FileSound:
    """The sound of a media file, decoded as it plays."""

    file: str | bytes
    start: Fraction  # seconds into the file
    duration: Fraction
    rate: int
    channels: int

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        from .decode import open_input

        begin = self.start + start
        left = nearest((self.duration - start) * rate)
        with open_input(self.file) as container:
            stream = _audio_stream(container)
            tick = Fraction(stream.time_base.numerator, stream.time_base.denominator)
            origin = (stream.start_time or 0) * tick
            if begin > 1:  # a little early: decoders need a run-up
                container.seek(int((begin + origin - Fraction(1, 4)) / tick), stream=stream)
            skip: int | None = None
            for block, time in _timed(container, stream, rate, channels):
                if skip is None:
                    skip = nearest((begin - (time - origin)) * rate)
                    if skip < 0:  # the file's sound begins later than its pictures
                        silence = np.zeros((channels, min(-skip, left)), np.float32)
                        yield silence
                        left, skip = left - silence.shape[1], 0
                kept = block[:, skip:][:, :left]
                skip = max(0, skip - block.shape[1])
                if kept.shape[1]:
                    yield kept
                    left -= kept.shape[1]
                if left <= 0:
                    return


@dataclass(frozen=True, eq=False)
class FilmSound:
    """The whole mix of another film, for films inside films."""

    film: Timeline
    rate: int
    channels: int

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        first = int(start * self.film.fps)
        rest = self.film.trimmed(first) if first else self.film
        skip = nearest((start - first / self.film.fps) * rate)
        for block in mix(rest, rate, channels):
            yield block[:, skip:]
            skip = max(0, skip - block.shape[1])


def sound_of_file(file: str | bytes, start: Fraction, duration: Fraction) -> FileSound | None:
    """The sound of a media file, or None where it has none that can be decoded."""
    from .decode import open_input

    with open_input(file) as container:
        stream = _audio_stream(container)
        if stream is None or not stream.rate:
            return None
        channels = stream.codec_context.layout.nb_channels
        known = channels if channels in LAYOUTS else 2
        return FileSound(file, start, duration, stream.rate, known)


def sound_of_film(film: Timeline) -> FilmSound | None:
    shape = sound_format(film)
    return FilmSound(film, *shape) if shape else None


def _audio_stream(container):
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def _timed(container, stream, rate: int, channels: int) -> Iterator[tuple[np.ndarray, Fraction]]:
    """Converted blocks with the time of their first decoded frame (later times just follow)."""
    first: Fraction | None = None

    def frames():
        nonlocal first
        for frame in container.decode(stream):
            if first is None:
                base = frame.time_base or stream.time_base
                first = (frame.pts or 0) * Fraction(base.numerator, base.denominator)
            yield frame

    for block in _converted(frames(), rate, channels):
        yield block, first


def _frame(samples: np.ndarray, rate: int):
    import av

    piece = np.ascontiguousarray(samples, np.float32)
    frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=LAYOUTS[len(piece)])
    frame.sample_rate = rate
    return frame


def _converted(frames: Iterable, rate: int, channels: int) -> Iterator[np.ndarray]:
    """PyAV audio frames as float32 blocks of the wanted rate and channels."""
    import av

    resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[channels], rate=rate)
    for frame in frames:
        frame.pts = None
        for converted in resampler.resample(frame):
            yield converted.to_ndarray()
    for converted in resampler.resample(None):
        yield converted.to_ndarray()


# --- mixing ---------------------------------------------------------------------------------------


@dataclass
class _Track:
    """A sound placed on the film's clock, read once from its start to its end."""

    sound: Sound
    start: int  # film sample where it is heard first
    stop: int
    offset: Fraction  # seconds of the sound that lie before `start`
    fade_in: tuple[int, int] = (0, 0)  # film samples [from, to); to <= from is no fade
    fade_out: tuple[int, int] = (0, 0)
    volume: float = 1.0
    _blocks: Iterator[np.ndarray] | None = None
    _rest: np.ndarray | None = None

    def add_to(self, out: np.ndarray, at: int, rate: int) -> None:
        first, last = max(at, self.start), min(at + out.shape[1], self.stop)
        if first >= last:
            return
        if self._blocks is None:
            self._blocks = self.sound.blocks(self.offset, rate, len(out))
            self._rest = np.zeros((len(out), 0), np.float32)
        samples = self._read(last - first) * self._gain(first, last)
        out[:, first - at : first - at + samples.shape[1]] += samples

    def _read(self, count: int) -> np.ndarray:
        parts = [self._rest]
        have = self._rest.shape[1]
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            have += block.shape[1]
        joined = np.concatenate(parts, axis=1)
        self._rest = joined[:, count:]
        silence = np.zeros((len(joined), max(0, count - have)), np.float32)
        return np.concatenate((joined[:, :count], silence), axis=1)

    def _gain(self, first: int, last: int) -> np.ndarray | np.float32:
        """Volume with equal-power fades: two sounds that cross keep their joint loudness."""
        gain = np.float32(self.volume)
        position = np.arange(first, last) + 0.5
        for (begin, end), rising in ((self.fade_in, True), (self.fade_out, False)):
            if end > begin and first < end and last > begin:
                phase = np.clip((position - begin) / (end - begin), 0.0, 1.0) * (np.pi / 2)
                gain = gain * (np.sin(phase) if rising else np.cos(phase)).astype(np.float32)
        return gain


def sound_format(film: Timeline) -> tuple[int, int] | None:
    """(sample rate, channels) of the mix, or None where nothing makes a sound."""
    sounds = [shot.sound for shot in film.shots if shot.sound and shot.volume > 0]
    if film.sound:
        sounds.insert(0, film.sound)
    if not sounds:
        return None
    return sounds[0].rate, max(sound.channels for sound in sounds)


def sample_count(film: Timeline, rate: int) -> int:
    """Samples of the mix: as many as the pictures last."""
    return nearest(film.seconds * rate)


def mix(film: Timeline, rate: int, channels: int) -> Iterator[np.ndarray]:
    """The film's sound: float32 blocks (channels, up to BLOCK), as long as the pictures.

    Sounds that are too short end in silence, sounds that are too long are cut.
    """
    tracks = list(_tracks(film, rate))
    total = sample_count(film, rate)
    for at in range(0, total, BLOCK):
        out = np.zeros((channels, min(BLOCK, total - at)), np.float32)
        for track in tracks:
            track.add_to(out, at, rate)
        yield np.clip(out, -1.0, 1.0, out=out)


def _tracks(film: Timeline, rate: int) -> Iterator[_Track]:
    total = sample_count(film, rate)

    def sample(frame: int) -> int:
        return nearest((frame - film.first) / film.fps * rate)

    if film.sound:
        yield _Track(film.sound, 0, total, film.first / film.fps)
    for number, (shot, span) in enumerate(zip(film.shots, film.spans, strict=True)):
        if shot.sound is None or shot.volume <= 0 or span.stop <= film.first:
            continue
        start = max(0, sample(span.start))
        offset = max(Fraction(0), (film.first - span.start) / film.fps)
        track = _Track(shot.sound, start, min(total, sample(span.stop)), offset, volume=shot.volume)
        if number:
            track.fade_in = (sample(span.start), sample(film.spans[number - 1].stop))
        if number + 1 < len(film.spans):
            track.fade_out = (sample(film.spans[number + 1].start), sample(span.stop))
        yield track
