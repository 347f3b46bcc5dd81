"""What the packets of a media file say: when its frames show, where decoding may begin, its end.

Headers are often wrong or silent about all of this, so the packets are read once, not decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .rational import from_av

SCAN_BYTES = 2**30  # of packets; of what is longer only the header is believed
USUAL = (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)
MAX_NOMINAL = 240  # frames per second of a file whose frames come at odd times
JITTER = 0.25  # of a frame: times that are off by less still lie on a grid
MICROSECOND = Fraction(1, 1_000_000)


@dataclass(frozen=True, eq=False)
class Scan:
    """The picture of a file; times in ticks of its stream.

    `whole` is False where the file was too long to read, or has frames without times; then the
    other fields say nothing.
    """

    whole: bool
    times: tuple[int, ...] = ()  # of all frames, in the order they show
    keys: tuple[tuple[int, int], ...] = ()  # (pts, dts) of frames that need no other, sorted
    stop: int = 0  # where the last frame ends; it may last no time
    latest: Fraction = Fraction(0)  # seconds; the end of all streams

    def key_before(self, pts: int) -> tuple[int, int] | None:
        """The last frame that shows at `pts` or earlier and needs no other."""
        at = bisect_right(self.keys, (pts, 2**63)) - 1
        return self.keys[at] if at >= 0 else None


def scan(container, stream) -> Scan:
    """Read the packets of an open container; `stream` is the picture's."""
    import av

    times: list[int] = []
    keys: list[tuple[int, int]] = []
    stop = size = 0
    latest = Fraction(0)
    packets = container.demux()
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # a file that is cut off ends in either
            break
        size += packet.size
        if size > SCAN_BYTES:
            return Scan(False)
        if not packet.size or packet.is_discard:
            continue
        base = from_av(packet.time_base)
        if packet.pts is not None and base:
            latest = max(latest, (packet.pts + (packet.duration or 0)) * base)
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None:
            return Scan(False)
        times.append(packet.pts)
        stop = max(stop, packet.pts + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    return Scan(bool(times), tuple(sorted(times)), tuple(sorted(keys)), stop, latest)


def nominal_rate(found: Scan, tick: Fraction, average: Fraction | None, base: Fraction | None):
    """The lowest likely frame rate at which no frame of the file is lost (None: unknown).

    Files of constant rate have their own; the frames of screen recordings and phones come when
    something moves, and a film at their average rate would drop most of them.
    """
    if not found.whole:
        return average or base
    times = (np.array(found.times, np.int64) - found.times[0]) * float(tick)
    span = float(times[-1])
    lowest = (len(times) - 1) / span if span else float(average or base or 24)
    usual = sorted(Fraction(n * k, 1001) for n in USUAL for k in (1000, 1001))
    usual = [rate for rate in usual if rate > 0.99 * lowest] or [Fraction(MAX_NOMINAL)]
    said = [rate for rate in (average, base) if rate and rate <= MAX_NOMINAL]
    for slack in (JITTER, 0.5):
        for rate in (*said, *usual):
            if _lost(times, rate, slack) == 0:
                return rate
        said = said[1:]  # an average that does not fit fits no better with more slack
    return min(usual, key=lambda rate: (_lost(times, rate, 0.5), rate))


def _lost(times: np.ndarray, rate: Fraction, slack: float) -> int:
    """How many frames share a place on the grid of `rate` with another, or lie off it."""
    places = times * float(rate)
    grid = np.floor(places + 0.5)
    return len(grid) - len(np.unique(grid)) + int((np.abs(places - grid) > slack).sum())


def end_of_header(container) -> Fraction | None:
    """Where the header says that the file ends, in seconds of the file's own clock."""
    if not container.duration:
        return None
    return (container.duration + (container.start_time or 0)) * MICROSECOND
