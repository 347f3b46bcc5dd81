"""Which noise levels are trained how often: distributions of the timestep, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .job import ObjectiveSettings


@dataclass(frozen=True)
class TimestepKind:
    """A distribution, given by its quantiles.

    Attributes:
        quantile: (u in (0, 1), settings) -> place in the trained range, in [0, 1], 1 = noisiest.
    """

    name: str
    help: str
    quantile: Callable[[torch.Tensor, "ObjectiveSettings"], torch.Tensor]


def _logit_normal(u: torch.Tensor, settings: "ObjectiveSettings") -> torch.Tensor:
    normal = torch.special.ndtri(u)
    return torch.sigmoid(settings.timestep_mean + settings.timestep_spread * normal)


def _mode(u: torch.Tensor, settings: "ObjectiveSettings") -> torch.Tensor:
    s = settings.timestep_mode_scale
    return 1.0 - u - s * ((math.pi / 2 * u).cos().square() - 1.0 + u)


TIMESTEPS = {
    k.name: k
    for k in (
        TimestepKind("uniform", "All noise levels alike.", lambda u, settings: u),
        TimestepKind(
            "logit_normal",
            "Mostly middle levels: the sigmoid of a normal number with timestep_mean and "
            "timestep_spread (arXiv 2403.03206, eq. 19; with 0 and 1 also called sigmoid).",
            _logit_normal,
        ),
        TimestepKind(
            "mode",
            "Middle levels more, without losing the ends; timestep_mode_scale says how much "
            "(arXiv 2403.03206, eq. 20).",
            _mode,
        ),
        TimestepKind(
            "cosmap",
            "As often as a cosine schedule visits them (arXiv 2403.03206, eq. 21).",
            lambda u, settings: 1.0 - 1.0 / ((math.pi / 2 * u).tan() + 1.0),
        ),
        TimestepKind(
            "content",
            "Noisy levels, where composition and shape are decided: 1 - u^3 (arXiv 2302.08453, "
            "section 3.4).",
            lambda u, settings: 1.0 - u**3,
        ),
        TimestepKind(
            "style",
            "Nearly clean levels, where texture and colour are decided: u^3.",
            lambda u, settings: u**3,
        ),
    )
}


def draw_timesteps(
    settings: "ObjectiveSettings", count: int, random: torch.Generator
) -> torch.Tensor:
    """`count` timesteps in [timestep_min, timestep_max), int64 (count,).

    With `timestep_strata` each comes from its own equal share of the distribution, in an order of
    chance, so that a batch always holds both noisy and clean levels.
    """
    low, high = settings.timestep_min, settings.timestep_max
    if settings.timestep_kind == "uniform" and not settings.timestep_strata:
        return torch.randint(low, high, (count,), generator=random)
    u = torch.rand(count, generator=random, dtype=torch.float64)
    if settings.timestep_strata:
        u = (torch.randperm(count, generator=random) + u) / count
    u = u.clamp(1e-12, 1.0 - 1e-12)  # the ends of a normal distribution are infinite
    place = TIMESTEPS[settings.timestep_kind].quantile(u, settings)
    return (low + place * (high - low)).long().clamp(low, high - 1)
