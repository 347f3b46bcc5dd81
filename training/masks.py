"""Masks: how much each place of a picture counts in its loss."""

import torch

from .buckets import Placement, place_mask
from .data_settings import MaskSettings
from .rng import generator

LATENT_PIXELS = 8  # pixels per latent value, along each side


def latent_mask(placement: Placement) -> torch.Tensor:
    """The part of each latent place that is learnt: float32 (1, h, w) in [0, 1].

    The mask follows scaling, mirroring and crop of its picture, and is then averaged over the
    8 x 8 pixels that a latent value stands for.

    Raises:
        DatasetError: the mask file is unreadable or has changed.
    """
    mask = place_mask(placement)
    return torch.nn.functional.avg_pool2d(mask[None, None], LATENT_PIXELS)[0]


def loss_weights(mask: torch.Tensor, unmasked_weight: float) -> torch.Tensor:
    """What the loss is multiplied with: float32 like `mask`, mean 1.

    Dividing by the mean makes pictures with a small and with a large mask count the same, and a
    uniform mask count as none. A mask that is black all over gives zeros: nothing is learnt.
    """
    weights = unmasked_weight + (1.0 - unmasked_weight) * mask.double()
    mean = weights.mean()
    return (weights / mean if mean > 0 else weights).float()


def is_ignored(settings: MaskSettings, seed: int, position: int, slot: int) -> bool:
    """Whether a picture is learnt whole in a batch, whatever its mask says."""
    if not settings.unmasked_chance:
        return False
    random = generator(seed, "unmasked", position, slot)
    return float(torch.rand(1, generator=random)) < settings.unmasked_chance
