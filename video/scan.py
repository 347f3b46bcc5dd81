"""What the packets of a media file say: when its frames show, where decoding may begin, its end.

Headers are often wrong or silent about all of this, so the packets are read once, not decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .rational import from_av

SCAN_BYTES = 2**32  # of packets; of what is longer only the header is believed
USUAL = (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)
MAX_NOMINAL = 240  # frames per second of a file whose frames come at odd times
ROUNDING = 0.02  # of a frame: a phase this small is what containers round
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


def scan(container, stream, decode) -> tuple[Scan, Any]:
    """Read the packets of a file that was just opened; `stream` is the picture's.

    Also gives the first frame that `decode` (packet -> frames) makes, None where it makes none.
    """
    import av

    times: list[int] = []
    keys: list[tuple[int, int]] = []
    stop = size = 0
    latest = Fraction(0)
    frame = None
    whole = True
    packets = container.demux()
    while whole or frame is None:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # a file that is cut off ends in either
            break
        picture = packet.stream_index == stream.index
        if picture and frame is None:
            with suppress(av.error.FFmpegError):
                frame = next(iter(decode(packet)), None)
        size += packet.size
        whole = whole and size <= SCAN_BYTES
        if not packet.size or packet.is_discard:
            continue
        base = from_av(packet.time_base)
        if packet.pts is not None and base:
            latest = max(latest, (packet.pts + (packet.duration or 0)) * base)
        if not picture:
            continue
        if packet.pts is None:
            whole = False
            continue
        times.append(packet.pts)
        stop = max(stop, packet.pts + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    if not whole or not times:
        return Scan(False), frame
    return Scan(True, tuple(sorted(times)), tuple(sorted(keys)), stop, latest), frame


def grid_of(
    found: Scan, tick: Fraction, average: Fraction | None, base: Fraction | None
) -> tuple[Fraction | None, Fraction]:
    """The lowest likely frame rate at which no frame is lost, and how late the first frame is.

    Files of constant rate have their own; the frames of screen recordings and phones come when
    something moves, and a film at their average rate would drop most of them. The rate is None
    where nothing tells it; lateness is in seconds, against the grid that fits all frames best.
    """
    if not found.whole:
        return average or base, Fraction(0)
    times = (np.array(found.times, np.int64) - found.times[0]) * float(tick)
    span = float(times[-1])
    lowest = (len(times) - 1) / span if span else float(average or base or 24)
    usual = sorted(Fraction(n * k, 1001) for n in USUAL for k in (1000, 1001))
    usual = [rate for rate in usual if rate > 0.99 * lowest] or [Fraction(MAX_NOMINAL)]
    said = [rate for rate in (average, base) if rate and rate <= MAX_NOMINAL]
    tried: list[tuple[int, float, float, Fraction]] = []

    def late(fit: tuple) -> Fraction:
        return -Fraction(fit[2]).limit_denominator(1000) / fit[3]

    for slack in (JITTER, 0.5):
        for rate in (*said, *usual):
            fit = (*_misfit(times, rate, slack), rate)
            tried.append(fit)
            if fit[0] == 0 and rate in said:
                return rate, late(fit)
        whole = [fit for fit in tried if fit[0] == 0]
        if whole:  # 60 and 59.94 may both do: the one that lies closer, the even one in doubt
            near = [fit for fit in whole if fit[3] < 1.01 * whole[0][3]]
            best = min(near, key=lambda fit: fit[1] * (1 if fit[3].denominator == 1 else 1.1))
            return best[3], late(best)
        said = said[1:]  # an average that does not fit fits no better with more slack
    return (best := min(tried))[3], late(best)


def _misfit(times: np.ndarray, rate: Fraction, slack: float) -> tuple[int, float, float]:
    """How many frames share a place on the grid of `rate` or lie off it; how far; its phase."""
    places = times * float(rate)
    phase = float(np.angle(np.exp(2j * np.pi * places).mean())) / (2 * np.pi)
    phase = phase if abs(phase) > ROUNDING else 0.0
    grid = np.floor(places - phase + 0.5)
    off = np.abs(places - phase - grid)
    return len(grid) - len(np.unique(grid)) + int((off > slack).sum()), float(off.mean()), phase


def end_of_header(container) -> Fraction | None:
    """Where the header says that the file ends, in seconds of the file's own clock."""
    if not container.duration:
        return None
    return (container.duration + (container.start_time or 0)) * MICROSECOND
