"""From a film to a file: pictures and sound, encoded together, there only when complete.

Colour: sRGB pictures become BT.709 limited range, rounded, and are tagged so in the codec, in every
frame and in the container. Times: frame i has the time i / fps exactly. Sound is written beside the
pictures it belongs to.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from typing import IO, Any

import numpy as np

from .ahead import ahead
from .errors import VideoError
from .files import REMEDIES, explained, whole_file
from .presets import Preset, preset_named
from .render import Renderer
from .sound import LAYOUTS, mix, sound_format
from .timeline import Timeline

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (frames done, frames of the film); may raise to stop

FRAMES_AHEAD = 3
PICTURES_AHEAD = 2  # rendered in one thread while another converts and the encoder encodes
MAX_THREADS = 16  # of an encoder: more of them cost memory and delay, not time
SCALER = 0x2 | 0x40000 | 0x4000  # bilinear, accurate rounding, chroma from all pixels
BT709 = 1  # the value of this matrix, of its primaries and of its transfer curve
RGB_MATRIX = 0
REWRITABLE = ("mp4", "mov", "webm")  # muxers; Matroska does not keep decoding times of B-frames
SRGB_CURVE = 13
LIMITED_RANGE, FULL_RANGE = 1, 2


def encode(
    film: Timeline,
    target: str | os.PathLike | IO[bytes],
    preset: str | Preset = "h264",
    *,
    container: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    new: bool = False,
) -> None:
    """Write the film to a file, or into a seekable binary file object.

    A file is written as a part beside its place and takes its name when it is complete; on any
    error or interrupt the part is removed. Pictures of odd size get their last row or column twice
    where the pixel format needs even ones.

    Args:
        container: FFmpeg's name of another muxer than the preset's.
        metadata: written into the file; values that are not text are written as JSON.
        progress: called after every frame; what it raises ends the encoding.
        new: never write over a file, nor under a name that another process is writing.

    Raises:
        NameTaken: only for `new`; nothing was encoded.
        VideoError: no such preset or encoder, the encoder refuses the film, the disk is full.
    """
    chosen = preset_named(preset) if isinstance(preset, str) else preset
    muxer = container or chosen.container
    if isinstance(target, (str, os.PathLike)):
        with whole_file(target, new) as part:
            _write(film, part, muxer, chosen, metadata, progress)
    else:
        with explained("the file in memory"):
            _write(film, target, muxer, chosen, metadata, progress)


def rewrite(
    source: str | os.PathLike,
    target: str | os.PathLike,
    container: str,
    metadata: Mapping[str, Any] | None = None,
    new: bool = False,
) -> None:
    """Write a file that `encode` wrote once more, with other metadata: packets are copied as is.

    Only for muxers in REWRITABLE.

    Raises:
        VideoError: the disk is full.
        NameTaken: as `encode`.
        OSError, ValueError: FFmpeg's own, `source` cannot be read.
    """
    import av

    with av.open(os.fspath(source)) as file, whole_file(target, new) as part:
        output = _opened(part, container, metadata)
        try:
            copies = {stream: output.add_stream_from_template(stream) for stream in file.streams}
            for stream, copy in copies.items():
                copy.time_base = stream.time_base  # older PyAV takes another, which rounds times
            for packet in file.demux():
                if packet.size:  # the packet that ends each stream is empty
                    packet.stream = copies[packet.stream]
                    output.mux(packet)
        except BaseException:
            with suppress(Exception):
                output.close()
            raise
        output.close()


def _opened(file: str | IO[bytes], muxer: str, metadata: Mapping[str, Any] | None):
    import av

    output = av.open(file, mode="w", format=muxer, options=_muxer_options(muxer, file))
    for key, value in (metadata or {}).items():
        output.metadata[key] = value if isinstance(value, str) else json.dumps(value)
    return output


def _write(
    film: Timeline,
    file: str | IO[bytes],
    muxer: str,
    preset: Preset,
    metadata: Mapping[str, Any] | None,
    progress: Progress | None,
) -> None:
    output = _opened(file, muxer, metadata)
    try:
        video, sound = _add_streams(output, film, preset)
        total = film.frame_count
        with closing(ahead(_video_frames(film, preset), FRAMES_AHEAD)) as frames:
            for index, frame in enumerate(frames):
                frame.pts = index
                frame.time_base = 1 / film.fps
                output.mux(video.encode(frame))
                if sound is not None:
                    sound.write_until((index + 1) / film.fps)
                if progress is not None:
                    progress(index + 1, total)
        output.mux(video.encode(None))
        if sound is not None:
            sound.finish()
    except BaseException:
        with suppress(Exception):  # the error that led here is the one to tell
            output.close()
        raise
    output.close()


def _muxer_options(muxer: str, file: str | IO[bytes]) -> dict[str, str]:
    if muxer not in ("mp4", "mov"):
        return {}
    flags = "use_metadata_tags"  # keeps our keys: the workflow comes back when the file is dropped
    if isinstance(file, str):
        flags += "+faststart"  # needs a second pass over the file by its name
    return {"movflags": flags}


def _add_streams(output, film: Timeline, preset: Preset):
    """The video stream and the sound writer (None for a silent film), opened and ready."""
    import av

    size = _encoded_size(film, preset)
    try:
        video = output.add_stream(preset.codec, rate=film.fps)
        context = video.codec_context
        context.width, context.height = size
        context.pix_fmt = preset.pixel_format
        context.time_base = 1 / film.fps
        context.thread_count = min(os.cpu_count() or 1, MAX_THREADS)
        if preset.codec_tag:
            context.codec_tag = preset.codec_tag
        video.options = dict(preset.options)
        if preset.crf is not None:
            video.options = {**video.options, "crf": f"{preset.crf:g}"}
        _tag(context, preset)
        shape = sound_format(film)
        sound = _SoundWriter(output, film, preset, *shape) if shape else None
        output.start_encoding()
    except av.codec.codec.UnknownCodecError as error:
        raise VideoError(
            f"This PyAV has no encoder {error}: choose another preset than {preset.name!r}."
        ) from error
    except OSError as error:
        if error.errno in REMEDIES:
            raise
        raise VideoError(_refused(film, preset, error)) from error
    except (ValueError, av.error.FFmpegError) as error:
        raise VideoError(_refused(film, preset, error)) from error
    return video, sound


def _refused(film: Timeline, preset: Preset, error: Exception) -> str:
    return (
        f"Preset {preset.name!r} cannot encode {film.width}x{film.height} at"
        f" {float(film.fps):g} fps ({error}): change size or fps, or choose another preset."
    )


def _encoded_size(film: Timeline, preset: Preset) -> tuple[int, int]:
    if not preset.even:
        return film.width, film.height
    return film.width + film.width % 2, film.height + film.height % 2


def _tag(target, preset: Preset) -> None:
    """Say on a codec context or a frame what its numbers mean."""
    target.colorspace = RGB_MATRIX if preset.rgb else BT709
    target.color_range = FULL_RANGE if preset.rgb else LIMITED_RANGE
    if hasattr(target, "color_primaries"):  # frames: from PyAV 17 on
        target.color_primaries = BT709
        target.color_trc = SRGB_CURVE if preset.rgb else BT709


def _video_frames(film: Timeline, preset: Preset) -> Generator[Any, None, None]:
    """The film as frames in the encoder's pixel format. A picture that stays stays converted."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    width, height = _encoded_size(film, preset)
    shown: np.ndarray | None = None
    frame = None
    with closing(ahead(_pictures(film), PICTURES_AHEAD)) as pictures:
        for picture in pictures:
            if picture is not shown:
                shown = picture
                rgb = av.VideoFrame.from_numpy_buffer(_padded(picture, width, height), "rgb24")
                rgb.color_range = FULL_RANGE
                frame = reformatter.reformat(
                    rgb,
                    format=preset.pixel_format,
                    dst_colorspace=BT709,
                    src_color_range=FULL_RANGE,
                    dst_color_range=FULL_RANGE if preset.rgb else LIMITED_RANGE,
                    interpolation=SCALER,
                )
                _tag(frame, preset)
            yield frame


def _pictures(film: Timeline) -> Generator[np.ndarray, None, None]:
    with Renderer(film) as renderer:
        yield from renderer.frames()


def _padded(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    more = (height - picture.shape[0], width - picture.shape[1])
    if any(more):
        picture = np.pad(picture, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    return np.ascontiguousarray(picture)


class _SoundWriter:
    """Encodes the film's mix up to a given time, so that sound lies beside its pictures."""

    def __init__(self, output, film: Timeline, preset: Preset, rate: int, channels: int) -> None:
        import av

        known = av.Codec(preset.audio_codec, "w").audio_rates
        if known and rate not in known:
            rate = 48_000 if 48_000 in known else max(known)
        self._rate = rate
        self._layout = LAYOUTS[channels]
        self._output = output
        self._stream = output.add_stream(preset.audio_codec, rate=rate, layout=self._layout)
        if preset.audio_bit_rate:
            self._stream.bit_rate = preset.audio_bit_rate * max(1, channels // 2)
        self._blocks = mix(film, rate, channels)
        self._written = 0

    def write_until(self, seconds) -> None:
        while self._written < seconds * self._rate:
            block = next(self._blocks, None)
            if block is None:
                return
            self._encode(block)

    def finish(self) -> None:
        for block in self._blocks:
            self._encode(block)
        self._output.mux(self._stream.encode(None))

    def _encode(self, block: np.ndarray) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._written
        self._output.mux(self._stream.encode(frame))
        self._written += block.shape[1]
