"""Keeps a mix within full scale without clipping it: a peak limiter that looks ahead.

The gain is 1 wherever nothing is too loud, so such samples pass as they are. Where sounds add up
beyond full scale it sinks before the peak and rises after it, in about 20 ms each, without a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

HOP = 64  # samples that share one measured peak
REACH = 8  # hops over which the gain sinks and rises again


def limited(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples, float32 (channels, count), with peaks above 1 lowered to 1.

    Blocks have any length; the film ends with the last one.
    """
    pending: np.ndarray | None = None  # samples that wait for those after them
    margin = (2 * REACH + 1) * HOP  # as far as a gain looks
    before = 0  # samples at the front of `pending` that are out already, kept to measure
    for block in blocks:
        pending = block if pending is None else np.concatenate((pending, block), axis=1)
        ready = (pending.shape[1] - margin) // HOP * HOP
        if ready > before:
            yield _lowered(pending, before, ready)
            kept = max(0, ready - margin)
            pending, before = pending[:, kept:], ready - kept
    if pending is not None and pending.shape[1] > before:
        yield _lowered(pending, before, pending.shape[1])


def _lowered(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples start..stop, at gains that all of them around decide."""
    part = samples[:, start:stop]
    peaks = np.abs(samples).max(axis=0)
    if peaks.max() <= 1.0:
        return part
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    hops = -(-len(peaks) // HOP)
    peaks = np.pad(peaks, (0, hops * HOP - len(peaks))).reshape(hops, HOP).max(axis=1)
    needed = 1.0 / np.maximum(peaks, 1.0)
    # Gains stand at the edges of hops: none is above what either side of it needs. The mean of
    # minima never is, because every minimum it is made of has looked at this edge.
    edges = np.minimum(np.append(needed, 1.0), np.append(1.0, needed))
    lowest = minimum_filter1d(edges, 2 * REACH + 1, mode="nearest")
    gains = uniform_filter1d(lowest, 2 * REACH + 1, mode="nearest")
    at = np.interp(np.arange(start, stop), np.arange(hops + 1) * HOP, gains)
    return np.clip(part * at.astype(np.float32), -1.0, 1.0)
