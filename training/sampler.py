"""Which pictures make up which batch: a pure function of (seed, position)."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from .buckets import Placement
from .rng import generator


class BatchSampler:
    """Batches of pictures of one size; every epoch shows each picture `repeats` times.

    The last batch of a bucket may be smaller, so no picture is left out. Batches of different
    buckets are mixed. Position m of the endless sequence can be asked for at any time.
    """

    def __init__(self, placements: Sequence[Placement], batch_size: int, seed: int):
        self._seed = seed
        self._batch_size = batch_size
        self._buckets: dict[tuple[int, int], list[int]] = {}
        for index, placement in enumerate(placements):
            bucket = self._buckets.setdefault(placement.bucket_size, [])
            bucket.extend([index] * placement.item.repeats)
        self.per_epoch = sum(-(-len(b) // batch_size) for b in self._buckets.values())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, number: int) -> list[list[int]]:
        random = generator(self._seed, "epoch", number)
        batches = []
        for _, members in sorted(self._buckets.items()):
            order = torch.randperm(len(members), generator=random).tolist()
            shuffled = [members[i] for i in order]
            for start in range(0, len(shuffled), self._batch_size):
                batches.append(shuffled[start : start + self._batch_size])
        order = torch.randperm(len(batches), generator=random).tolist()
        return [batches[i] for i in order]

    def batch(self, position: int) -> list[int]:
        """Indices into `placements` of the batch at `position` (from 0, over all epochs)."""
        epoch, place = divmod(position, self.per_epoch)
        return self._epoch(epoch)[place]
