"""The limiter alone: exact where nothing is too loud, the same in any blocks, never above 1."""

import numpy as np
import pytest

from video.limiter import HOP, REACH, limited


def cut(samples: np.ndarray, size: int):
    return (samples[:, at : at + size] for at in range(0, samples.shape[1], size))


def through(samples: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate(list(limited(cut(samples, size))), axis=1)


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 4096, 100_000])
def test_blocks_change_nothing(size):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-1, 1, (2, 9000)).astype(np.float32)
    samples[:, 2000:2300] *= 3
    samples[:, 6000:6003] *= 9
    got = through(samples, size)
    assert got.shape == samples.shape
    assert np.abs(got).max() <= 1
    assert np.abs(got - through(samples, 9000)).max() < 2e-6


def test_what_is_far_from_a_peak_is_untouched():
    samples = np.full((1, 20_000), 0.5, np.float32)
    samples[0, 10_000] = 4.0
    got = through(samples, 4096)[0]
    reach = 2 * (REACH + 1) * HOP
    assert np.array_equal(got[: 10_000 - reach], samples[0, : 10_000 - reach])
    assert np.array_equal(got[10_000 + reach :], samples[0, 10_000 + reach :])
    assert 0.9 < got[10_000] <= 1
    gain = np.delete(got, 10_000) / 0.5
    assert np.abs(np.diff(gain)).max() < 0.002  # sinks and rises without a step


def test_nothing_comes_of_nothing():
    assert list(limited(iter(()))) == []
