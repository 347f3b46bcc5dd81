"""Where an infinite or NaN step came from: which pictures, which layer. Only asked after one."""

from collections.abc import Sequence

import torch

from .processes import Team


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


def broken_layer(model: torch.nn.Module) -> str:
    """The first layer whose gradient is not finite, "" if all are."""
    for name, p in model.named_parameters():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return name.partition(".lora_")[0]
    return ""


def describe(number: int, pictures: Sequence[str], layer: str) -> str:
    """What the user is told about a skipped step."""
    names = ", ".join(dict.fromkeys(pictures))
    where = f", first seen in {layer}" if layer else ""
    return f"Step {number} gave an infinite or NaN gradient and was skipped ({names}{where})."
