"""Random draws that are the same on every machine and in every Python version.

Only `random.Random.random()` is promised to stay the same between Python versions, so every other
draw is built from it here.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_SPLITS = {"train": 1, "test": 2}


class Draws:
    """A stream of draws from integer keys; equal keys give equal streams."""

    def __init__(self, *keys: int):
        mixed = 0x9E3779B97F4A7C15
        for key in keys:
            # One multiply-xor round per key: nearby seeds must not give related streams.
            mixed = ((mixed ^ (key & (2**64 - 1))) * 0xBF58476D1CE4E5B9) % 2**64
            mixed ^= mixed >> 29
        self._random = random.Random(mixed).random

    @classmethod
    def for_sample(cls, seed: int, split: str) -> "Draws":
        """The stream of sample `seed`; streams of "train" and "test" never coincide."""
        return cls(_SPLITS[split], seed)

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        return self._random()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return min(int(self._random() * count), count - 1)

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def pick_weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """`options` are (value, weight) pairs."""
        left = self._random() * sum(weight for _, weight in options)
        for value, weight in options:
            left -= weight
            if left < 0:
                return value
        return options[-1][0]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        rest, out = list(options), []
        while rest:
            out.append(rest.pop(self.below(len(rest))))
        return out

    def seed(self) -> int:
        """A fresh key for another stream."""
        return int(self._random() * 2**48)
