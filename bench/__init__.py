"""Benchmarks: `python3 run.py bench AREA [--json FILE]` prints {name, value, unit, peer, ratio}.

A ratio above 1 is better for us unless the name ends in `_overhead` or `_mb`. Peers run in the same
process or the same minute, alternating with ours; a figure is the median of at least five.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One figure. `peer` names what it is compared with, `ratio` how it compares."""

    name: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], runs: int = 5
) -> tuple[float, float]:
    """Median seconds of both functions, called in turn `runs` times after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    ours(), peer()
    for _ in range(runs):
        for function, seconds in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
