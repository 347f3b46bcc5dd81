"""Optimizers and learning-rate schedules by name. Adding one is adding one entry here."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .job import OptimizerSettings, ScheduleSettings


@dataclass(frozen=True)
class OptimizerKind:
    """How an optimizer is called in a job and in file metadata, and how it is made."""

    name: str
    label: str
    help: str
    build: Callable[[list, "OptimizerSettings"], torch.optim.Optimizer]


def _adamw(parameters: list, settings: "OptimizerSettings") -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=parameters[0].device.type in ("cuda", "cpu"),
    )


OPTIMIZERS = {
    k.name: k
    for k in (
        OptimizerKind(
            "adamw",
            "torch.optim.adamw.AdamW",
            "AdamW (arXiv 1711.05101) in one fused kernel.",
            _adamw,
        ),
    )
}


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: "OptimizerSettings"
) -> torch.optim.Optimizer:
    """The optimizer the settings name, over `parameters`."""
    return OPTIMIZERS[settings.kind].build(list(parameters), settings)


@dataclass(frozen=True)
class ScheduleKind:
    """A learning-rate curve: progress after warm-up in [0, 1] -> factor in [0, 1]."""

    name: str
    help: str
    factor: Callable[[float], float]


SCHEDULES = {
    k.name: k
    for k in (
        ScheduleKind("constant", "The same rate until the end.", lambda progress: 1.0),
        ScheduleKind(
            "cosine",
            "Half a cosine from the full rate to the floor (arXiv 1608.03983, no restarts).",
            lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
        ),
    )
}


def warmup_steps(settings: "ScheduleSettings") -> int:
    """Steps in which the rate rises."""
    return round(settings.warmup * settings.steps)


def rate_factor(step: int, settings: "ScheduleSettings") -> float:
    """What the learning rate of optimizer step `step` (from 0) is multiplied with.

    A pure function of the step, so that resuming needs no state.
    """
    warmup = warmup_steps(settings)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, settings.steps - warmup)
    curve = SCHEDULES[settings.kind].factor(min(1.0, progress))
    return settings.floor + (1.0 - settings.floor) * curve
