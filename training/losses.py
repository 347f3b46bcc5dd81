"""What an error costs: losses per value, and how the threshold of robust ones follows the noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from .diffusion import TRAIN_STEPS

if TYPE_CHECKING:
    from .job import ObjectiveSettings


@dataclass(frozen=True)
class LossKind:
    """A loss of single values.

    Attributes:
        of: (prediction, target, threshold) -> loss of every value, of the same shape; the
            threshold is a tensor that broadcasts to them, or None where the loss has none.
        robust: whether it has a threshold.
    """

    name: str
    help: str
    of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    robust: bool = False


def _huber(predicted, target, delta):
    """Twice Huber's loss, so that small errors cost what they cost as squares."""
    size = (predicted - target).abs()
    return torch.where(size < delta, size.square(), delta * (2.0 * size - delta))


def _pseudo_huber(predicted, target, delta):
    return 2.0 * delta * (((predicted - target).square() + delta**2).sqrt() - delta)


def _pseudo_smooth_l1(predicted, target, delta):
    return 2.0 * (((predicted - target).square() + delta**2).sqrt() - delta)


LOSSES = {
    k.name: k
    for k in (
        LossKind(
            "mse",
            "Squared error.",
            lambda predicted, target, _: functional.mse_loss(predicted, target, reduction="none"),
        ),
        LossKind(
            "mae",
            "Absolute error.",
            lambda predicted, target, _: functional.l1_loss(predicted, target, reduction="none"),
        ),
        LossKind(
            "huber",
            "Squared error below the threshold d, 2 d |error| - d^2 above it: single wild values "
            "pull less.",
            _huber,
            robust=True,
        ),
        LossKind(
            "smooth_l1",
            "huber / d: like the absolute error, but round at zero.",
            lambda predicted, target, delta: _huber(predicted, target, delta) / delta,
            robust=True,
        ),
        LossKind(
            "pseudo_huber",
            "2 d (sqrt(error^2 + d^2) - d), smooth everywhere (arXiv 2403.16728; sd-scripts calls "
            "it huber).",
            _pseudo_huber,
            robust=True,
        ),
        LossKind(
            "pseudo_smooth_l1",
            "2 (sqrt(error^2 + d^2) - d) (sd-scripts calls it smooth_l1).",
            _pseudo_smooth_l1,
            robust=True,
        ),
    )
}


@dataclass(frozen=True)
class ThresholdSchedule:
    """How a robust loss's threshold follows the noise: (c, timesteps, signal power) -> d."""

    name: str
    help: str
    at: Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor]


THRESHOLDS = {
    s.name: s
    for s in (
        ThresholdSchedule(
            "constant", "c at every step.", lambda c, times, power: torch.full_like(power, c)
        ),
        ThresholdSchedule(
            "snr",
            "From 1 without noise towards c: (1 - c) / (1 + sigma)^2 + c (arXiv 2403.16728).",
            lambda c, times, power: (1.0 - c) / (1.0 + ((1.0 - power) / power).sqrt()).square() + c,
        ),
        ThresholdSchedule(
            "exponential",
            "From 1 without noise to c at the noisiest: c^(t / T) (arXiv 2403.16728).",
            lambda c, times, power: torch.exp(math.log(c) / TRAIN_STEPS * times),
        ),
    )
}


def threshold_table(settings: "ObjectiveSettings", power: torch.Tensor) -> torch.Tensor | None:
    """Threshold of the settings' loss at each timestep, float32 like `power` (1000,), or None."""
    if not LOSSES[settings.loss].robust:
        return None
    times = torch.arange(len(power), dtype=torch.float64)
    schedule = THRESHOLDS[settings.huber_schedule]
    return schedule.at(settings.huber_threshold, times, power.double()).float()
