"""Video files as pictures: decoded forward as the film plays, on the clock of the whole file.

Picture and sound of a file share one origin: where its first stream begins, moved by less than a
frame so that the picture's frames lie on the film's. Before its first frame a file shows that.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from .colour import Converter, quarter_turns
from .errors import VideoError
from .notes import say
from .rational import from_av, nearest
from .scan import MICROSECOND, Scan, end_of_header, grid_of, scan
from .sources import VideoFile
from .timeline import Moment

SEEK_AHEAD = Fraction(4)  # seconds that are cheaper to decode than to seek over
SEEK_BACK = (0, 2, 10, 60)  # seconds; how much earlier to look where seeking led too far
SLACK = Fraction(1, 1000)  # seconds; times come as floats that were rounded
CUT_OFF = Fraction(1, 4)  # seconds that may be missing before a file counts as cut off
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


def open_video(
    file: str | bytes, start: Fraction = Fraction(0), duration: Fraction | None = None
) -> VideoFile:
    """Look at a video file (path or content) and describe the part from `start` on.

    `duration` is in seconds, None for the rest of the file. What a file that is cut off, has
    variable frame times, alpha or high dynamic range needs, is said where it matters.

    Raises:
        VideoError: not a readable video, or the part is empty.
    """
    with open_input(file) as container:
        stream = _video_stream(container, file)
        frame = next(_Feed(container, stream, file), None)
        if frame is None:
            raise VideoError(f"{file_label(file)} has no frame that can be decoded.")
        width, height = _display_size(frame, stream)
        has_sound = any(s.codec_context is not None for s in container.streams.audio)
    with open_input(file) as container:
        stream = _video_stream(container, file)
        found = scan(container, stream)
        tick = from_av(stream.time_base) or Fraction(1, 1000)
        average, base = from_av(stream.average_rate), from_av(stream.base_rate)
        rate, late = grid_of(found, tick, average, base)
        origin = _origin(container, stream, found, tick, rate, late)
        whole = _whole_seconds(container, stream, found, tick, rate, origin)
        if found.whole and whole is not None:
            _say_if_cut_off(container, stream, found, file, whole)
    if whole is None:
        whole = _counted_seconds(file, rate)
    rest = whole - start
    if rest <= 0:
        raise VideoError(f"{file_label(file)} lasts {float(whole):g} s: start before that.")
    kept = rest if duration is None else min(duration, rest)
    return VideoFile(file, start, kept, width, height, rate, has_sound, origin, found)


def _video_stream(container, file: str | bytes):
    if not container.streams.video:
        raise VideoError(f"{file_label(file)} has no video in it.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _display_size(frame, stream) -> tuple[int, int]:
    """(width, height) upright and with square pixels; the side that is too short is stretched."""
    width, height = frame.width, frame.height
    aspect = from_av(stream.sample_aspect_ratio) or Fraction(1)
    if aspect > 1:
        width = 2 * nearest(width * aspect / 2)
    elif aspect < 1:
        height = 2 * nearest(height / aspect / 2)
    return (height, width) if quarter_turns(frame) % 2 else (width, height)


def _origin(container, stream, found: Scan, tick, rate, late) -> Fraction:
    """The second of the file's clock at which its film begins."""
    begin = None if stream.start_time is None else stream.start_time * tick
    first = found.times[0] * tick - late if found.whole else begin or Fraction(0)
    if container.start_time is None or begin is None or not rate:
        return first
    lead = begin - container.start_time * MICROSECOND
    return first - max(0, int((lead + SLACK) * rate)) / rate


def _whole_seconds(container, stream, found: Scan, tick, rate, origin) -> Fraction | None:
    header = None
    if stream.duration:
        header = (stream.duration + (stream.start_time or 0)) * tick - origin
    if found.whole:
        frame = 1 / rate if rate else tick
        last = found.times[-1] * tick - origin
        shown = (nearest(last * rate) / rate if rate else last) + frame
        # Containers round the end, and some do not know how long the last frame stays.
        stop = found.stop * tick - origin
        stop = stop if header is None else min(stop, header)
        return stop if stop - shown > frame * 3 / 4 else shown
    if header is not None:
        return header
    if stream.frames and rate:
        return stream.frames / rate
    end = end_of_header(container)
    return None if end is None else end - origin


def _counted_seconds(file: str | bytes, rate: Fraction | None) -> Fraction:
    """The last resort: read every packet of a file whose header does not know its length."""
    with open_input(file) as container:
        stream = _video_stream(container, file)
        count = sum(1 for packet in container.demux(stream) if packet.size)
    return count / (rate or Fraction(24))


def _say_if_cut_off(container, stream, found: Scan, file: str | bytes, seconds: Fraction) -> None:
    end = end_of_header(container)
    missing = end - found.latest if end is not None else Fraction(0)
    lost = stream.frames - len(found.times) if stream.frames else 0
    if missing > max(CUT_OFF, end / 50 if end else 0) or (lost > 1 and missing > SLACK):
        say(
            f"{file_label(file)} is cut off: of {float(end):.2f} s only the first"
            f" {float(seconds):.2f} s are there, and the film uses those."
        )


class _Feed:
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
        self._decode = _decoder(stream)
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


def _decoder(stream):
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


class VideoReader:
    """Reads pictures by time. Going forward decodes each frame once; going back seeks.

    Pictures have the size asked for (None: the file's own), scaled as they are converted.
    """

    def __init__(self, video: VideoFile, size: tuple[int, int] | None = None) -> None:
        self._video = video
        self._end = video.start + video.duration
        self._open()
        context = self._stream.codec_context
        transfer = int(getattr(context, "color_trc", 0) or 0)
        self._converter = Converter(*(size or video.size()), transfer)
        self._tick = from_av(self._stream.time_base) or Fraction(1, 1000)
        self._step = 1 / (video.rate or Fraction(24))
        self._slack = min(SLACK, self._step / 4)
        self._last_time = -self._step
        self._picture: np.ndarray | None = None
        if video.start > SEEK_AHEAD:
            self._seek(video.start)
        elif not self._rewind(None, None):
            self._fail()

    def _open(self) -> None:
        self._container = open_input(self._video.file)
        self._stream = _video_stream(self._container, self._video.file)

    def _fail(self) -> None:
        label = file_label(self._video.file)
        raise VideoError(f"{label} has no frame that can be decoded there.")

    def close(self) -> None:
        self._current = self._upcoming = self._picture = self._feed = None
        self._container.close()

    def picture(self, moment: Moment) -> np.ndarray:
        time = self._video.start + moment.seconds
        if self._time > time + self._slack and not self._earliest:
            self._seek(time)
        elif self._upcoming is not None and time - self._upcoming_time > SEEK_AHEAD:
            self._seek(min(time, self._end), forward=True)
        while self._upcoming is not None and self._due(self._upcoming_time, time):
            self._current, self._time, self._earliest = self._upcoming, self._upcoming_time, False
            self._picture = None
            self._upcoming = self._decode()
        if self._upcoming is None and min(time, self._end) - self._time > 2 * self._step:
            self._say_if_short()
        if self._picture is None:
            self._picture = self._converter.picture(self._current)
        return self._picture

    def _say_if_short(self) -> None:
        if not self._video.scan.whole:
            label = file_label(self._video.file)
            say(f"{label} ends at {float(self._time):.2f} s, its last frame stays from there on.")

    def _due(self, frame_time: Fraction, time: Fraction) -> bool:
        return frame_time - self._slack <= time and frame_time < self._end - self._slack

    def _seek(self, time: Fraction, forward: bool = False) -> None:
        """Bring the frame of `time` into reach, by the nearest way that leads there for sure."""
        found = self._video.scan
        key = None
        if found.whole:
            half = self._step / 2
            key = found.key_before(int((time + half + self._video.origin) / self._tick))
        if forward and key is not None and key[0] * self._tick <= self._upcoming_pts:
            return  # nothing to jump to: decoding on is the nearest way
        for back in SEEK_BACK:
            target = (time - back + self._video.origin) / self._tick
            if key is not None:
                target = key[1] - back / self._tick
            if time > back and self._rewind(int(target), key) and self._time <= time + self._slack:
                return
        if not self._rewind(None, key) and not self._rewind(None, None):
            self._fail()

    def _rewind(self, ticks: int | None, key: tuple[int, int] | None) -> bool:
        """Go to a time of the stream, None for the start of the file; False: nothing to see."""
        import av

        if ticks is None:
            self._container.close()
            self._open()
        else:
            try:
                self._container.seek(ticks, stream=self._stream)
            except av.error.FFmpegError:
                return False
        late = ticks is not None
        self._feed = _Feed(self._container, self._stream, self._video.file, key, late)
        self._last_time = -self._step
        self._picture = None
        self._current = self._decode()
        if self._current is None:
            return False
        self._time = self._upcoming_time
        self._earliest = key is None and not late
        self._upcoming = self._decode()
        return True

    def _decode(self):
        """The next frame; its time goes to `_upcoming_time`. None at the end of the file."""
        frame = next(self._feed, None)
        if frame is not None:
            time = self._last_time + self._step
            if frame.pts is not None:
                self._upcoming_pts = frame.pts * self._tick
                time = self._upcoming_pts - self._video.origin
                if self._video.rate:  # containers round times, cameras are late: back to the grid
                    time = nearest(time * self._video.rate) / self._video.rate
            self._upcoming_time = self._last_time = time
        return frame
