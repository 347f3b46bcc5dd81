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

    Regularisation pictures take turns: an epoch has `prior_ratio` of them per other picture, and
    the next epoch goes on where it stopped. Every size gets its share, the same in each epoch.
    """

    def __init__(
        self,
        placements: Sequence[Placement],
        batch_size: int,
        seed: int,
        prior_ratio: float = 1.0,
    ):
        self._seed = seed
        self._batch_size = batch_size
        self._buckets: dict[tuple[int, int], list[int]] = {}
        self._priors: dict[tuple[int, int], list[int]] = {}
        for index, placement in enumerate(placements):
            kind = self._priors if placement.item.prior else self._buckets
            bucket = kind.setdefault(placement.bucket_size, [])
            bucket.extend([index] * placement.item.repeats)
        taught = sum(len(members) for members in self._buckets.values())
        self._quotas = _shares(
            {size: len(members) for size, members in self._priors.items()},
            round(prior_ratio * taught),
        )
        self._sizes = sorted({*self._buckets, *(s for s, n in self._quotas.items() if n)})
        self.per_epoch = sum(
            -(-(len(self._buckets.get(s, ())) + self._quotas.get(s, 0)) // batch_size)
            for s in self._sizes
        )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, number: int) -> list[list[int]]:
        random = generator(self._seed, "epoch", number)
        batches = []
        for size in self._sizes:
            members = self._buckets.get(size, []) + self._taking_turns(size, number)
            order = torch.randperm(len(members), generator=random).tolist()
            shuffled = [members[i] for i in order]
            for start in range(0, len(shuffled), self._batch_size):
                batches.append(shuffled[start : start + self._batch_size])
        order = torch.randperm(len(batches), generator=random).tolist()
        return [batches[i] for i in order]

    def _taking_turns(self, size: tuple[int, int], epoch: int) -> list[int]:
        """The regularisation pictures of one size in an epoch."""
        count, pool = self._quotas.get(size, 0), self._priors.get(size, [])
        taken, rounds = [], {}
        for place in range(epoch * count, (epoch + 1) * count):
            turn, offset = divmod(place, len(pool))
            if turn not in rounds:
                random = generator(self._seed, "prior", *size, turn)
                rounds[turn] = torch.randperm(len(pool), generator=random).tolist()
            taken.append(pool[rounds[turn][offset]])
        return taken

    def batch(self, position: int) -> list[int]:
        """Indices into `placements` of the batch at `position` (from 0, over all epochs)."""
        epoch, place = divmod(position, self.per_epoch)
        return self._epoch(epoch)[place]


def _shares(counts: dict[tuple[int, int], int], total: int) -> dict[tuple[int, int], int]:
    """`total` split in proportion to `counts`, by the method of the largest remainder."""
    whole = sum(counts.values())
    if not whole:
        return {}
    shares = {size: total * count // whole for size, count in counts.items()}
    by_remainder = sorted(counts, key=lambda size: (-(total * counts[size] % whole), size))
    for size in by_remainder[: total - sum(shares.values())]:
        shares[size] += 1
    return shares
