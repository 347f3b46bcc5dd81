"""Reference pictures: who speaks for which region, in which layers, and when.

A `Role` is data; adding one is adding an entry to `ROLES`. Layer weights are indexed by SDXL's
`transformer_index`, the position of a transformer block in execution order: 0-1 and 2-3 on the way
down, 4 the middle, 5-7 and 8-10 on the way up. Block 3 carries composition and block 6 style
(Wang et al. 2024, "InstantStyle"), so a garment photograph that is silent in block 3 cannot impose
its own pose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F

from .errors import SceneError
from .ip_adapter import COMBINES, pad_to_square
from .regions import REGIONS

# The mean colour CLIP image encoders subtract: padding with it is zero after normalisation.
CLIP_MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)

FITS = ("pad", "crop", "stretch")
PER_FRAME = "per frame"
JOINS = (*COMBINES, PER_FRAME)
MODES = ("inspire", "plate")
MASK_FLOOR = 0.05  # below this a mask counts as black


# Who and what they wear is decided from the middle block upwards; a place needs the way down, too.
# Measured with the miniature (demo/README.md): with fewer layers hair and place do not carry over,
# and a face that is left to itself in the last fifth of the steps loses its marks and its skin.
_UPWARDS = MappingProxyType(dict.fromkeys(range(4, 11), 1.0))
_EVERYWHERE = MappingProxyType(dict.fromkeys(range(11), 1.0))


@dataclass(frozen=True)
class Role:
    """What a kind of reference means by default.

    Attributes:
        name: key in `ROLES`.
        region: name from `regions.REGIONS` that the reference speaks for.
        region_alone: the same when no other reference speaks for the rest of the body.
        layer_weights: transformer_index -> factor on the reference weight; others are 0.
        start_percent, end_percent: part of the sampling steps, 0 = first step, 1 = last.
        fit: how a picture that is not square becomes square, one of `FITS`. Subjects are padded;
            a landscape is stretched, since bars beside it would be seen as part of the scene.
        help: one sentence for users.
    """

    name: str
    region: str
    region_alone: str
    layer_weights: Mapping[int, float]
    start_percent: float = 0.0
    end_percent: float = 1.0
    fit: str = "pad"
    help: str = ""


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        role.name: role
        for role in (
            Role(
                "character",
                region="head",
                region_alone="person",
                layer_weights=_UPWARDS,
                help="Who is in the picture: face and hair.",
            ),
            Role(
                "attire",
                region="outfit",
                region_alone="outfit",
                layer_weights=_UPWARDS,
                help="What they wear.",
            ),
            Role(
                "background",
                region="background",
                region_alone="background",
                layer_weights=_EVERYWHERE,
                fit="stretch",
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
        region: name from `regions.REGIONS`, or None to let the role decide.
        person: index of the person it belongs to, None for everybody.
        fit: how a picture becomes square: "pad", "crop" (centre) or "stretch".
        combine: how several pictures are joined, one of `JOINS`; "per frame" gives picture i to
            frame i alone.
        mode: background only: "inspire" (look like it) or "plate" (keep it pixel for pixel).
    """

    role: Role
    images: torch.Tensor
    weight: float = 1.0
    mask: torch.Tensor | None = None
    start_percent: float = 0.0
    end_percent: float = 1.0
    region: str | None = None
    person: int | None = None
    fit: str = "pad"
    combine: str = "concat"
    mode: str = "inspire"
    layer_weights: Mapping[int, float] = field(default_factory=dict)

    def prepared_images(self) -> torch.Tensor:
        """Square pictures (R, S, S, 3), 0..1, as the image encoder shall see them.

        Nothing is cropped away unless `fit` says so. With a mask, everything else becomes the
        encoder's mean colour and the picture is framed on what is left.
        """
        pictures = [
            square(frame_on_mask(picture, mask), self.fit)
            for picture, mask in zip(self.images, self._masks(), strict=True)
        ]
        side = max(picture.shape[0] for picture in pictures)
        return torch.stack([resized(picture, side, side) for picture in pictures])

    @property
    def speaks(self) -> bool:
        """Whether it acts through an IP-Adapter."""
        return self.mode != "plate" and self.weight != 0.0

    def attention_options(self) -> dict:
        """What the IP-Adapter patch needs to know besides pictures and place, as keywords."""
        return {
            "weight": self.weight,
            "layer_weights": self.layer_weights,
            "start_percent": self.start_percent,
            "end_percent": self.end_percent,
            "combine": COMBINES[0] if self.combine == PER_FRAME else self.combine,
            "per_frame": self.combine == PER_FRAME,
        }

    def _masks(self) -> list[torch.Tensor | None]:
        return [None] * len(self.images) if self.mask is None else list(self.mask)


def make_reference(
    role: str,
    images: torch.Tensor,
    *,
    weight: float = 1.0,
    mask: torch.Tensor | None = None,
    start_percent: float | None = None,
    end_percent: float | None = None,
    region: str | None = None,
    person: int | None = None,
    fit: str | None = None,
    combine: str = "concat",
    mode: str = "inspire",
    layer_weights: Mapping[int, float] | None = None,
) -> Reference:
    """A checked `Reference`; what is not given comes from the role.

    Args:
        role: key of `ROLES`.
        images: (R, H, W, 1 | 3 | 4) 0..1; a fourth channel is alpha and serves as mask.
        mask: (R | 1, h, w) 0..1, white marks what counts; resized to the pictures.

    Raises:
        SceneError: an unknown name, a wrong shape, an empty mask, values out of range.
    """
    kind = _choice(role, "role", ROLES)
    images, mask = _checked_images(images, mask, role)
    start = kind.start_percent if start_percent is None else float(start_percent)
    end = kind.end_percent if end_percent is None else float(end_percent)
    if not 0.0 <= start <= end <= 1.0:
        raise SceneError(
            f"The {role} reference starts at {start:g} and ends at {end:g}: "
            "both must lie in 0..1 with start_percent <= end_percent."
        )
    if not math.isfinite(weight):
        raise SceneError(f"The weight of the {role} reference is {weight}; give a number.")
    _choice(combine, "combine", JOINS)
    _choice(mode, "mode", MODES)
    if mode == "plate" and role != "background":
        raise SceneError(f"Only a background can be kept as a plate; {role} cannot.")
    return Reference(
        role=kind,
        images=images,
        weight=float(weight),
        mask=mask,
        start_percent=start,
        end_percent=end,
        region=None if region is None else _choice(region, "region", REGIONS),
        person=person,
        fit=kind.fit if fit is None else _choice(fit, "fit", FITS),
        combine=combine,
        mode=mode,
        layer_weights=kind.layer_weights if layer_weights is None else dict(layer_weights),
    )


def _choice(name: str, what: str, known):
    if name not in known:
        raise SceneError(f"Unknown {what} {name!r}; choose one of: {', '.join(known)}.")
    return known[name] if isinstance(known, Mapping) else name


def _checked_images(images, mask, role: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape:
        raise SceneError(
            f"The {role} reference needs pictures of shape (count, height, width, 3), got {shape}."
        )
    images = torch.nan_to_num(images.detach().to("cpu", torch.float32)).clamp(0.0, 1.0)
    if shape[-1] == 4:
        mask = images[..., 3] if mask is None else mask
        images = images[..., :3]
    elif shape[-1] == 1:
        images = images.expand(-1, -1, -1, 3)
    if mask is None:
        return images, None
    return images, _checked_mask(mask, shape, role)


def _checked_mask(mask: torch.Tensor, shape: tuple[int, ...], role: str) -> torch.Tensor:
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    count, height, width = shape[:3]
    if mask.ndim != 3 or mask.shape[0] not in (1, count):
        raise SceneError(
            f"The mask of the {role} reference has shape {tuple(mask.shape)}; "
            f"it needs one mask, or one for each of the {count} pictures."
        )
    if mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None], (height, width), mode="bilinear", antialias=True)[:, 0]
    mask = torch.nan_to_num(mask).clamp(0.0, 1.0).expand(count, -1, -1)
    for index, one in enumerate(mask):
        if not bool((one > MASK_FLOOR).any()):
            raise SceneError(
                f"The mask of the {role} reference is empty (picture {index}): white marks the "
                "part to look at. Load Image's mask is the inverse of alpha, so invert it first."
            )
    return mask


def frame_on_mask(
    picture: torch.Tensor, mask: torch.Tensor | None, margin: float = 0.04
) -> torch.Tensor:
    """(H, W, 3) cut out by mask (H, W) onto the encoder's mean colour, with a small margin."""
    if mask is None:
        return picture
    mean = picture.new_tensor(CLIP_MEAN_RGB)
    cut = torch.lerp(mean.expand_as(picture), picture, mask[..., None])
    rows = torch.nonzero((mask > MASK_FLOOR).any(dim=1)).flatten()
    columns = torch.nonzero((mask > MASK_FLOOR).any(dim=0)).flatten()
    pad = round(margin * max(len(rows), len(columns)))
    top, bottom = max(0, int(rows[0]) - pad), int(rows[-1]) + 1 + pad
    left, right = max(0, int(columns[0]) - pad), int(columns[-1]) + 1 + pad
    return cut[top:bottom, left:right]


def square(picture: torch.Tensor, fit: str) -> torch.Tensor:
    """(H, W, 3) as (S, S, 3): padded on the encoder's mean colour, centre-cropped or stretched."""
    height, width = picture.shape[:2]
    if height == width:
        return picture
    if fit == "stretch":
        side = max(height, width)
        return resized(picture, side, side)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return picture[top : top + side, left : left + side]
    return pad_to_square(picture[None], CLIP_MEAN_RGB)[0]


def resized(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(H, W, 3) at another size: bicubic with antialiasing, kept in 0..1."""
    if tuple(picture.shape[:2]) == (height, width):
        return picture
    chw = picture.permute(2, 0, 1)[None]
    out = F.interpolate(chw, (height, width), mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).clamp(0.0, 1.0)
