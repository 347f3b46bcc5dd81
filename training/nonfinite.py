"""Where an infinite or NaN step came from: which pictures, which layer. Only asked after one."""

from collections.abc import Callable, Mapping, Sequence

import torch

from .processes import Team
from .targets import UNET


def guilty_pictures(seen: Sequence[tuple[list[int], torch.Tensor]], team: Team) -> list[int]:
    """Placements whose own loss is not finite; all that were seen if there is no such one.

    Args:
        seen: per forward pass the placements of the whole batch, and the losses of those that
            this process computed.
    """
    guilty = []
    for indices, losses in seen:
        own = indices[team.rank :: team.size]
        finite = torch.isfinite(losses).tolist()
        guilty += [i for i, good in zip(own, finite, strict=True) if not good]
    return guilty or [i for indices, _ in seen for i in indices]


def broken_layer(
    models: Mapping[str, torch.nn.Module], is_broken: Callable[[torch.nn.Parameter], bool]
) -> str:
    """The first layer whose gradient is not finite, "" if all are.

    Args:
        models: `Adapter.models`; names in text encoders get a prefix.
        is_broken: whether a weight's gradient is not finite.
    """
    for model, module in models.items():
        for name, p in module.named_parameters():
            if p.requires_grad and is_broken(p):
                name = name.partition(".lora_")[0]
                return name if model == UNET else f"{model}.{name}"
    return ""


def is_not_finite(gradient: torch.Tensor | None) -> bool:
    """Whether there is an infinite or NaN number in a gradient."""
    return gradient is not None and not bool(torch.isfinite(gradient).all())


def describe(number: int, pictures: Sequence[str], layer: str, partly: bool = False) -> str:
    """What the user is told about a skipped step.

    Args:
        partly: whether weights with a finite gradient have moved, see `fused_backward`.
    """
    names = ", ".join(dict.fromkeys(pictures))
    where = f", first seen in {layer}" if layer else ""
    if partly:
        return (
            f"Step {number} gave an infinite or NaN gradient; the weights it reached took it for "
            f"zero ({names}{where}). memory.fused_backward off skips such steps whole."
        )
    return f"Step {number} gave an infinite or NaN gradient and was skipped ({names}{where})."
