"""Video files as pictures: decoded forward as the film plays, on the clock of the whole file.

Picture and sound of a file share one origin: where its first stream begins, moved by less than a
frame so that the picture's frames lie on the film's. Before its first frame a file shows that.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .colour import Converter, quarter_turns
from .errors import VideoError
from .feed import Feed, close_input, decoder, file_label, open_input, opened, video_stream
from .notes import say
from .rational import from_av, nearest
from .scan import MICROSECOND, Scan, end_of_header, grid_of, scan
from .sources import VideoFile
from .timeline import Moment

SEEK_AHEAD = Fraction(4)  # seconds that are cheaper to decode than to seek over
SEEK_BACK = (0, 2, 10, 60)  # seconds; how much earlier to look where seeking led too far
SLACK = Fraction(1, 1000)  # seconds; times come as floats that were rounded
CUT_OFF = Fraction(1, 4)  # seconds that may be missing before a file counts as cut off


def open_video(
    file: str | bytes, start: Fraction = Fraction(0), duration: Fraction | None = None
) -> VideoFile:
    """Look at a video file (path or content) and describe the part from `start` on.

    `duration` is in seconds, None for the rest of the file. What a file that is cut off, has
    variable frame times, alpha or high dynamic range needs, is said where it matters.

    Raises:
        VideoError: not a readable video, or the part is empty.
    """
    with opened(file) as container:
        stream = video_stream(container, file)
        found, frame = scan(container, stream, decoder(stream))
        if frame is None:
            raise VideoError(f"{file_label(file)} has no frame that can be decoded.")
        width, height = _display_size(frame, stream)
        has_sound = any(s.codec_context is not None for s in container.streams.audio)
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
    with opened(file) as container:
        stream = video_stream(container, file)
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
        self._upcoming_pts = Fraction(0)
        self._picture: np.ndarray | None = None
        if video.start > SEEK_AHEAD:
            self._seek(video.start)
        elif not self._rewind(None, None):
            self._fail()

    def _open(self) -> None:
        self._container = open_input(self._video.file)
        self._stream = video_stream(self._container, self._video.file)

    def _fail(self) -> None:
        label = file_label(self._video.file)
        raise VideoError(f"{label} has no frame that can be decoded there.")

    def close(self) -> None:
        self._current = self._upcoming = self._picture = self._feed = None
        close_input(self._container)

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
            key = found.key_before(int((time + self._slack + self._video.origin) / self._tick))
        if forward and key is not None and key[0] * self._tick <= self._upcoming_pts:
            return  # nothing to jump to: decoding on is the nearest way
        for back in SEEK_BACK:
            target = (time - back + self._video.origin) / self._tick
            if key is not None:
                target = key[1] - back / self._tick
            if time > back and self._rewind(int(target), key) and self._time <= time + self._slack:
                return
        if self._rewind(None, key) and self._time <= time + self._slack:
            return
        if not self._rewind(None, None):
            self._fail()

    def _rewind(self, ticks: int | None, key: tuple[int, int] | None) -> bool:
        """Go to a time of the stream, None for the start of the file; False: nothing to see."""
        import av

        if ticks is None:
            close_input(self._container)
            self._open()
        else:
            try:
                self._container.seek(ticks, stream=self._stream)
            except av.error.FFmpegError:
                return False
        late = ticks is not None
        self._feed = Feed(self._container, self._stream, self._video.file, key, late)
        self._last_time = -self._step
        self._picture = None
        self._current = self._decode()
        if self._current is None or (late and self._current.pts is None):  # nobody knows where
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
