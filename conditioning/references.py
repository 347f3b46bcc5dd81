"""Reference pictures: who speaks for which region, in which layers, and when.

A `Role` is data; adding one is adding an entry to `ROLES`. Layer weights are indexed by SDXL's
`transformer_index`, the position of a transformer block in execution order: 0-1 and 2-3 on the way
down, 4 the middle, 5-7 and 8-10 on the way up. Block 3 carries composition and block 6 style
(Wang et al. 2024, "InstantStyle"), so a garment photograph that is silent in block 3 cannot impose
its own pose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F

from .errors import SceneError

# The mean colour CLIP image encoders subtract: padding with it is zero after normalisation.
CLIP_MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)

FITS = ("pad", "crop", "stretch")
COMBINES = ("concat", "average")
MODES = ("inspire", "plate")


def _layers(**weights: float) -> Mapping[int, float]:
    return MappingProxyType({int(name[1:]): value for name, value in weights.items()})


@dataclass(frozen=True)
class Role:
    """What a kind of reference means by default.

    Attributes:
        name: key in `ROLES`.
        region: name from `regions.REGIONS` that the reference speaks for.
        layer_weights: transformer_index -> factor on the reference weight; others are 0.
        start_percent, end_percent: part of the sampling steps, 0 = first step, 1 = last.
        help: one sentence for users.
    """

    name: str
    region: str
    layer_weights: Mapping[int, float]
    start_percent: float = 0.0
    end_percent: float = 1.0
    help: str = ""


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        role.name: role
        for role in (
            Role(
                "character",
                region="head",
                layer_weights=_layers(t4=1.0, t5=1.0, t6=1.0, t7=1.0, t8=1.0),
                end_percent=0.8,
                help="Who is in the picture: face and hair.",
            ),
            Role(
                "attire",
                region="outfit",
                layer_weights=_layers(t4=1.0, t5=1.0, t6=1.0, t7=1.0, t8=1.0, t9=1.0, t10=1.0),
                help="What they wear.",
            ),
            Role(
                "background",
                region="background",
                layer_weights=_layers(t3=0.5, t5=1.0, t6=1.0),
                help="Where they are.",
            ),
        )
    }
)


@dataclass(frozen=True, eq=False)
class Reference:
    """One or several pictures of the same thing, and how strongly they count.

    Attributes:
        role: entry of `ROLES`.
        images: (R, H, W, 3) float, 0..1.
        weight: strength of the whole reference.
        mask: (R, H, W) float 0..1 or None; which part of the *reference pictures* to look at.
        start_percent, end_percent: part of the sampling steps.
        region: name from `regions.REGIONS`; the role's unless chosen otherwise.
        person: index of the person it belongs to, None for everyone.
        fit: how a picture becomes square: "pad", "crop" (centre) or "stretch".
        combine: how several pictures are joined: "concat" or "average".
        mode: background only: "inspire" (look like it) or "plate" (keep it pixel for pixel).
    """

    role: Role
    images: torch.Tensor
    weight: float = 1.0
    mask: torch.Tensor | None = None
    start_percent: float = 0.0
    end_percent: float = 1.0
    region: str = ""
    person: int | None = None
    fit: str = "pad"
    combine: str = "concat"
    mode: str = "inspire"
    layer_weights: Mapping[int, float] = field(default_factory=dict)

    def prepared_images(self) -> torch.Tensor:
        """Square pictures (R, S, S, 3), 0..1, as the image encoder shall see them."""
        raise NotImplementedError


def make_reference(role: str, images: torch.Tensor, **options) -> Reference:
    """A checked `Reference`; options are its fields, defaults come from the role."""
    raise NotImplementedError
