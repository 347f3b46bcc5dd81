"""The sound of a film: the film's own track and the sound of its shots, mixed block by block.

Positions are computed from frame boundaries, so sound and pictures share one clock however long the
film is. Samples are float32 (channels, count) in [-1, 1]. Every sound is brought to the highest
rate among them by FFmpeg's resampler; where the sum is louder than full scale, `limiter` lowers it.
A sound that a cut breaks off fades there for a moment too short to hear, instead of clicking.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from .errors import VideoError
from .limiter import limited
from .notes import say
from .rational import nearest
from .timeline import Shot, Span, Timeline

BLOCK = 4096  # samples mixed at a time
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
RATE_RANGE = (4_000, 384_000)
CUT_FADE = Fraction(5, 1000)  # seconds


class Sound(Protocol):
    rate: int  # samples per second
    channels: int  # a key of LAYOUTS

    def blocks(self, start: Fraction, rate: int, channels: int) -> Iterator[np.ndarray]:
        """Samples from `start` seconds on, converted, in blocks of any length."""
        ...

    def broken(self, start: Fraction, stop: Fraction) -> tuple[bool, Fraction | None]:
        """Whether there is sound before second `start`, and when it is broken off up to `stop`.

        The latter is None where the sound comes to its own end before that.
        """
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
        if not np.isfinite(self.samples).all():
            say("The sound has samples that are not numbers (NaN or infinity): they are silent.")
            finite = np.where(np.isfinite(self.samples), self.samples, np.float32(0))
            object.__setattr__(self, "samples", finite)

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
        yield from converted((_frame(piece, self.rate) for piece in pieces), rate, channels)

    def broken(self, start: Fraction, stop: Fraction) -> tuple[bool, Fraction | None]:
        return start > 0, stop if stop * self.rate < self.samples.shape[1] else None


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

    def broken(self, start: Fraction, stop: Fraction) -> tuple[bool, Fraction | None]:
        return start > 0 or self.film.first > 0, min(stop, self.film.seconds)


def sound_of_film(film: Timeline) -> FilmSound | None:
    shape = sound_format(film)
    return FilmSound(film, *shape) if shape else None


def _frame(samples: np.ndarray, rate: int):
    import av

    piece = np.ascontiguousarray(samples, np.float32)
    frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=LAYOUTS[len(piece)])
    frame.sample_rate = rate
    return frame


def converted(frames: Iterable, rate: int, channels: int) -> Iterator[np.ndarray]:
    """PyAV audio frames as float32 blocks of the wanted rate and channels."""
    import av

    resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[channels], rate=rate)
    for frame in frames:
        frame.pts = None
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()
    for piece in resampler.resample(None):
        yield piece.to_ndarray()


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
    _blocks: Generator[np.ndarray, None, None] | None = None
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

    def close(self) -> None:
        """Let go of the file, if there is one: a film of many clips has many tracks."""
        if self._blocks is not None:
            self._blocks.close()
            self._rest = None

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
    return max(sound.rate for sound in sounds), max(sound.channels for sound in sounds)


def sample_count(film: Timeline, rate: int) -> int:
    """Samples of the mix: as many as the pictures last."""
    return nearest(film.seconds * rate)


def mix(film: Timeline, rate: int, channels: int) -> Iterator[np.ndarray]:
    """The film's sound: float32 blocks (channels, up to BLOCK), as long as the pictures.

    Sounds that are too short end in silence, sounds that are too long are cut.
    """
    yield from limited(_sum(film, rate, channels))


def _sum(film: Timeline, rate: int, channels: int) -> Iterator[np.ndarray]:
    tracks = list(_tracks(film, rate))
    total = sample_count(film, rate)
    try:
        for at in range(0, total, BLOCK):
            out = np.zeros((channels, min(BLOCK, total - at)), np.float32)
            for track in tracks:
                track.add_to(out, at, rate)
                if track.stop <= at + BLOCK:
                    track.close()
            tracks = [track for track in tracks if track.stop > at + BLOCK]
            yield out
    finally:
        for track in tracks:
            track.close()


def _tracks(film: Timeline, rate: int) -> Iterator[_Track]:
    total = sample_count(film, rate)

    def sample(frame: Fraction | int) -> int:
        return nearest((frame - film.first) / film.fps * rate)

    if film.sound:
        yield _Track(film.sound, 0, total, film.first / film.fps)
    for number, (shot, span) in enumerate(zip(film.shots, film.spans, strict=True)):
        if shot.sound is None or shot.volume <= 0 or span.stop <= film.first:
            continue
        start = max(0, sample(span.start))
        offset = max(Fraction(0), (film.first - span.start) / film.fps)
        track = _Track(shot.sound, start, min(total, sample(span.stop)), offset, volume=shot.volume)
        into, off = shot.sound.broken(Fraction(0), span.count / film.fps)
        short = nearest(CUT_FADE * rate)
        if number:
            before, old = film.spans[number - 1], film.shots[number - 1]
            track.fade_in = (sample(span.start), sample(before.stop))
            if before.stop == span.start and into and not _goes_on(old, before, shot, film.fps):
                track.fade_in = (track.fade_in[0], track.fade_in[0] + short)
        if number + 1 < len(film.spans):
            after, new = film.spans[number + 1], film.shots[number + 1]
            track.fade_out = (sample(after.start), sample(span.stop))
            cut = after.start == span.stop and off is not None
            if cut and not _goes_on(shot, span, new, film.fps):
                end = sample(span.start + off * film.fps)
                track.fade_out = (end - short, end)
        yield track


def _goes_on(first: Shot, span: Span, second: Shot, fps: Fraction) -> bool:
    """Whether the second shot's sound is that of the first one, from where it stops."""
    a, b = first.sound, second.sound
    if type(a) is not type(b) or first.volume != second.volume:
        return False
    if isinstance(a, FilmSound):
        joined = (a.film.first + span.count) / fps == b.film.first / b.film.fps
        return joined and a.film.shots == b.film.shots and a.film.fps == fps
    same = getattr(a, "file", None) is not None and a.file == b.file
    return same and abs(a.start + span.count / fps - b.start) < CUT_FADE
