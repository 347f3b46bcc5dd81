"""From a media file to decoded frames, in the order they show: what is damaged is passed over."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction

from .errors import VideoError
from .notes import say
from .rational import from_av, nearest

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own ones drop the alpha


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


def close_input(container) -> None:
    """Close an input, its decoders at rest.

    PyAV frees a decoder, and so waits for its threads, while it holds the interpreter. One that
    logs at that moment waits for the interpreter: for ever, where a pack switched PyAV's logging
    on, as older torchvision does. Flushing waits for the threads without holding it.
    """
    for stream in container.streams:
        if stream.codec_context is not None:
            stream.codec_context.flush_buffers()
    container.close()


@contextlib.contextmanager
def opened(file: str | bytes) -> Iterator:
    """`open_input` for a with statement."""
    container = open_input(file)
    try:
        yield container
    finally:
        close_input(container)


def video_stream(container, file: str | bytes):
    if not container.streams.video:
        raise VideoError(f"{file_label(file)} has no video in it.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


class Feed:
    """Decoded frames of a container that has just been opened or has sought, deinterlaced.

    A damaged packet is said once and skipped, as players do. `key` is (pts, dts) of the frame to
    begin with: packets before it are passed over, and nothing comes where the container has
    already gone past it. Without `key` but with `late`, the first frame that needs no other.
    """

    def __init__(self, container, stream, file: str | bytes, key=None, late: bool = False) -> None:
        self._packets = container.demux(stream)
        self._file = file
        self._key = key
        self._waiting = late or key is not None
        self._begin: int | None = None
        self._decode = decoder(stream)
        self._fields: _Deinterlacer | None = None
        self._iterator = self._run()

    def __iter__(self) -> Iterator:
        return self._iterator

    def __next__(self):
        return next(self._iterator)

    def _run(self) -> Iterator:
        for frame in self._decoded():
            if self._fields is None and frame.interlaced_frame:
                self._fields = _Deinterlacer(frame)
            if self._fields is None:
                yield frame
            else:
                yield from self._fields.push(frame)
        if self._fields is not None:
            yield from self._fields.push(None)

    def _decoded(self) -> Iterator:
        import av

        damaged = False
        while True:
            try:
                packet = next(self._packets)
                if self._waiting and not self._begins(packet):
                    if packet.size and self._past(packet):
                        return
                    continue
                frames = self._decode(packet)
            except StopIteration:
                return
            except av.error.InvalidDataError:
                if not damaged:
                    say(f"{file_label(self._file)} has damaged frames, they are skipped.")
                damaged = True
                continue
            except av.error.FFmpegError as error:
                say(f"{file_label(self._file)} cannot be read further: {error}")
                return
            for frame in frames:
                # Frames that show before the first one refer to what was passed over.
                if self._begin is None or frame.pts is None or frame.pts >= self._begin:
                    yield frame

    def _begins(self, packet) -> bool:
        if packet.size and packet.is_keyframe and self._key in (None, (packet.pts, _dts(packet))):
            self._waiting = False
            self._begin = packet.pts
        return not self._waiting

    def _past(self, packet) -> bool:
        return self._key is not None and packet.dts is not None and packet.dts > self._key[1]


def _dts(packet) -> int | None:
    return packet.pts if packet.dts is None else packet.dts


def decoder(stream):
    """What makes frames of a packet; VP8 and VP9 with alpha need another than FFmpeg's choice."""
    import av

    names = {key.lower(): value for key, value in stream.metadata.items()}
    better = ALPHA_DECODERS.get(stream.codec_context.name)
    if names.get("alpha_mode") != "1" or better is None:
        return lambda packet: packet.decode()
    try:
        context = av.CodecContext.create(better, "r")
    except av.error.FFmpegError:
        return lambda packet: packet.decode()
    return lambda packet: context.decode(packet if packet.size else None)


class _Deinterlacer:
    """FFmpeg's bwdif, one frame for one; frames that are not interlaced pass."""

    def __init__(self, frame) -> None:
        import av

        self._graph = av.filter.Graph()
        base = from_av(frame.time_base) or Fraction(1, 1000)
        shape = {"width": frame.width, "height": frame.height, "format": frame.format}
        source = self._graph.add_buffer(**shape, time_base=base)
        fields = self._graph.add("bwdif", mode="send_frame", deint="interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(fields)
        fields.link_to(sink)
        self._graph.configure()
        self._base = base

    def push(self, frame) -> Iterator:
        import av

        self._graph.push(frame)
        while True:
            try:
                done = self._graph.pull()
            except (BlockingIOError, EOFError, av.error.FFmpegError):
                return
            base = from_av(done.time_base) or self._base
            if done.pts is not None and base != self._base:
                done.pts, done.time_base = nearest(done.pts * base / self._base), self._base
            yield done
