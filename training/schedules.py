"""Learning-rate curves by name: pure functions of the step, so that resuming needs no state."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .learning_settings import ScheduleSettings


@dataclass(frozen=True)
class ScheduleKind:
    """A curve: (progress after warm-up in [0, 1], settings) -> factor in [0, 1]."""

    name: str
    help: str
    factor: Callable[[float, "ScheduleSettings"], float]


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine(progress: float, settings: "ScheduleSettings") -> float:
    return _half_cosine(progress * settings.cycles % 1.0) if progress < 1.0 else 0.0


def _stable_then_fall(progress: float, settings: "ScheduleSettings") -> float:
    fallen = max(0.0, progress - (1.0 - settings.decay)) / settings.decay
    return 1.0 - math.sqrt(fallen)


SCHEDULES = {
    k.name: k
    for k in (
        ScheduleKind("constant", "The same rate until the end.", lambda progress, settings: 1.0),
        ScheduleKind(
            "cosine",
            "Half a cosine from the full rate to the floor, `cycles` times (arXiv 1608.03983).",
            _cosine,
        ),
        ScheduleKind(
            "linear", "A straight line to the floor.", lambda progress, settings: 1.0 - progress
        ),
        ScheduleKind(
            "polynomial",
            "(1 - progress)^power.",
            lambda progress, settings: (1.0 - progress) ** settings.power,
        ),
        ScheduleKind(
            "wsd",
            "Warm-up, stable, decay: the full rate, and 1 - sqrt in the last share of the steps "
            "(arXiv 2404.06395, 2405.18392).",
            _stable_then_fall,
        ),
        ScheduleKind(
            "rex",
            "High for long, then down ever faster: (1 - p) / (1/2 + (1 - p)/2) (arXiv 2107.04197).",
            lambda progress, settings: (1.0 - progress) / (0.5 + 0.5 * (1.0 - progress)),
        ),
    )
}


def warmup_steps(settings: "ScheduleSettings") -> int:
    """Steps in which the rate rises."""
    return round(settings.warmup * settings.steps)


def rate_factor(step: int, settings: "ScheduleSettings", kind: str = "") -> float:
    """What the learning rate of optimizer step `step` (from 0) is multiplied with.

    Args:
        kind: a curve instead of the settings' own.
    """
    warmup = warmup_steps(settings)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, settings.steps - warmup)
    curve = SCHEDULES[kind or settings.kind].factor(min(1.0, progress), settings)
    return settings.floor + (1.0 - settings.floor) * curve
