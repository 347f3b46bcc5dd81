"""Aspect buckets: which size every picture is trained at, and which part of it is seen.

Sizes are (width, height) in pixels unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import DatasetError
from .images import load_image, load_mask, read_alpha
from .records import NAMES_PER_LINE, DatasetItem

if TYPE_CHECKING:
    import torch

Size = tuple[int, int]

STEPS = (8, 16, 32, 64)  # a latent is 1/8 of the picture; SDXL's own buckets are multiples of 64
CROPS: dict[str, tuple[int, int]] = {  # twice the share of the surplus that is cut off left / top
    "center": (1, 1),
    "top": (1, 0),
    "bottom": (1, 2),
    "left": (0, 1),
    "right": (2, 1),
}
SUBJECT = "subject"  # a crop around what the mask shows
MUCH_LOST = 0.1  # share of a picture's area whose loss is worth a word
MUCH_ENLARGED = 1.25  # times
OWN_BUCKET_ABOVE = 0.04  # ... and a bucket of the picture's own
SMALLER_COSTS = 0.2  # a fifth smaller is as bad as a twenty-fifth cut off


@dataclass(frozen=True)
class Colour:
    """A change of colours: factors, 1 = none, and a turn of the hue in turns, 0 = none."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class Placement:
    """How one picture becomes a training sample: scaled to `resized`, then cut to `bucket_size`.

    Attributes:
        bucket_size: size of the sample.
        resized: size of the whole picture after scaling; covers the bucket, same aspect.
        crop_left_top: where the bucket lies, in pixels of the *resized* (and mirrored) picture.
        original_size: size of the picture before scaling, after EXIF rotation.
        flip: mirrored left to right before it is cut.
        colour: what is done to its colours, None for nothing.
    """

    item: DatasetItem
    bucket_size: Size
    resized: Size
    crop_left_top: tuple[int, int]
    original_size: Size
    flip: bool = False
    colour: Colour | None = None

    @property
    def lost(self) -> float:
        """Share of the picture's area that lies outside of the bucket."""
        return lost_share(self.original_size, self.bucket_size)

    @property
    def enlarged(self) -> float:
        """How many times larger than the picture the sample is, 1 where it is not."""
        return max(1.0, *(r / o for r, o in zip(self.resized, self.original_size, strict=True)))

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's size conditioning: original h, w, crop top, left, target h, w.

        SDXL paper (arXiv 2307.01952) section 2.2: c_size is the size before any rescaling, c_crop
        the offset after it. diffusers' training scripts hand over the same six numbers in this
        order; sd-scripts writes a letterbox offset for c_crop instead, which we do not follow.
        """
        left, top = self.crop_left_top
        return (*self.original_size[::-1], top, left, *self.bucket_size[::-1])

    def with_crop(self, crop: str | tuple[int, int]) -> Placement:
        """The same sample cut elsewhere: a name in CROPS, SUBJECT or (left, top) in resized px.

        Raises:
            DatasetError: unknown name, or the bucket would leave the picture.
        """
        surplus = (
            self.resized[0] - self.bucket_size[0],
            self.resized[1] - self.bucket_size[1],
        )
        if crop == SUBJECT:
            left, top = self._around_focus(surplus)
        elif isinstance(crop, str):
            if crop not in CROPS:
                names = ", ".join((*CROPS, SUBJECT))
                raise DatasetError(f"Unknown crop {crop!r}: choose one of {names}.")
            left, top = (s * part // 2 for s, part in zip(surplus, CROPS[crop], strict=True))
        else:
            left, top = crop
        if not (0 <= left <= surplus[0] and 0 <= top <= surplus[1]):
            raise DatasetError(f"Crop {(left, top)} leaves the picture: at most {surplus} is cut.")
        return replace(self, crop_left_top=(left, top))

    def _around_focus(self, surplus: tuple[int, int]) -> tuple[int, int]:
        focus = self.item.focus or (0.5, 0.5)
        sides = zip(focus, self.resized, self.bucket_size, surplus, strict=True)
        left, top = (min(max(round(f * r - b / 2), 0), s) for f, r, b, s in sides)
        return left, top


def default_step(resolution: int) -> int:
    """64 from 512 px on, below that the largest step that leaves eight in a square's side."""
    return max((s for s in STEPS if s * 8 <= resolution), default=STEPS[0])


def bucket_sizes(
    resolution: int,
    step: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
) -> list[Size]:
    """All bucket sizes: sides multiples of `step`, area at most resolution^2, and as large as that
    allows for one of the sides.

    Args:
        resolution: side of the square bucket in pixels.
        step: every side is a multiple of it, one of STEPS; `default_step` if None.
        min_size, max_size: bounds of a side; by default half and twice the resolution.

    Raises:
        DatasetError: a value is out of range, named with its bounds.
    """
    step = default_step(resolution) if step is None else step
    if step not in STEPS:
        raise DatasetError(f"Bucket step {step} is not one of {', '.join(map(str, STEPS))}.")
    low = max(step, -(-_or_default(min_size, resolution // 2) // step) * step)
    high = _or_default(max_size, 2 * resolution) // step * step
    if resolution < step:
        raise DatasetError(f"Resolution {resolution} is below the bucket step {step}: raise it.")
    if low > resolution or high < resolution // step * step:
        raise DatasetError(
            f"Bucket sides {min_size}..{max_size} must enclose the resolution {resolution}."
        )
    found = set()
    for width in range(low, high + 1, step):
        height = min(high, resolution * resolution // width // step * step)
        if height >= low:
            found |= {(width, height), (height, width)}
    return sorted(found)


def plan_buckets(
    items: Iterable[DatasetItem],
    resolution: int,
    step: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    upscale: bool = False,
    crop: str = "center",
) -> list[Placement]:
    """The sample every picture becomes, in the order of `items`.

    A picture goes to the bucket of the nearest aspect (least |log ratio|), without `upscale` to the
    nearest one it fills. Where that cuts off more than OWN_BUCKET_ABOVE of it, or where it fills
    none, it gets a bucket of its own shape, with any sides that are multiples of `step` and within
    the bounds that are given; without `upscale`, `min_size` does not bind there (as sd-scripts'
    bucket_no_upscale). Only a picture narrower than `step` is ever enlarged then.

    Raises:
        DatasetError: see `bucket_sizes` and `Placement.with_crop`.
    """
    step = default_step(resolution) if step is None else step
    buckets = bucket_sizes(resolution, step, min_size, max_size)
    placements = []
    for item in items:
        size = (item.width, item.height)
        fitting = [b for b in buckets if upscale or (b[0] <= size[0] and b[1] <= size[1])]
        if fitting:
            bucket = min(fitting, key=lambda b: (_aspect_distance(b, size), -b[0] * b[1], b))
        if not fitting or lost_share(size, bucket) > OWN_BUCKET_ABOVE:
            low = (min_size or step) if upscale else step
            own = _own_bucket(size, resolution, step, low, max_size, upscale)
            if not fitting or _cost(size, own, resolution) < _cost(size, bucket, resolution):
                bucket = own
        plain = Placement(item, bucket, _cover(size, bucket), (0, 0), size)
        placements.append(plain.with_crop(crop))
    return placements


def count_buckets(placements: Iterable[Placement]) -> dict[Size, int]:
    """How many samples, with repeats, one epoch has of every size; the most frequent first."""
    counts: dict[Size, int] = {}
    for placement in placements:
        size = placement.bucket_size
        counts[size] = counts.get(size, 0) + placement.item.repeats
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def losses(placements: Iterable[Placement]) -> list[str]:
    """What pictures lose to their buckets, or by being enlarged, where it is worth a line."""
    placed = list(dict.fromkeys(placements))
    cut = [(p, f"{p.lost * 100:.0f} %") for p in placed if p.lost > MUCH_LOST]
    grown = [(p, f"{p.enlarged:.1f} times") for p in placed if p.enlarged > MUCH_ENLARGED]
    lines = []
    for what, found in (("cut by more than a tenth", cut), ("enlarged", grown)):
        named = [f"{Path(p.item.path).name} {much}" for p, much in found[:NAMES_PER_LINE]]
        more = ", ..." if len(found) > len(named) else ""
        if found:
            whom = "1 picture is" if len(found) == 1 else f"{len(found)} pictures are"
            lines.append(f"{whom} {what}: {', '.join(named)}{more}")
    return lines


def place_image(placement: Placement, crop: str | tuple[int, int] | None = None) -> torch.Tensor:
    """The sample: float32 (3, height, width) in [-1, 1], scaled with Lanczos.

    Args:
        placement: from `plan_buckets`.
        crop: another crop than the placement's own, see `Placement.with_crop`; the size
            conditioning must then come from that placement.

    Raises:
        DatasetError: the file is unreadable or not the one the dataset was read from.
    """
    import torch

    if crop is not None:
        placement = placement.with_crop(crop)
    pixels_hwc = load_image(placement.item.path, placement.item.digest)
    pixels_hwc = _place(pixels_hwc, placement)
    if placement.colour is not None:
        from .augment import recoloured

        pixels_hwc = recoloured(pixels_hwc, placement.colour)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels_hwc.transpose(2, 0, 1)))
    return tensor.to(torch.float32) / 127.5 - 1.0


def place_mask(placement: Placement) -> torch.Tensor:
    """The sample's mask: float32 (height, width) in [0, 1], 1 = learn; all ones without a mask.

    Raises:
        DatasetError: as `place_image`.
    """
    import torch

    width, height = placement.bucket_size
    mask_hw = learnt_part(placement.item)
    if mask_hw is None:
        return torch.ones(height, width)
    return torch.from_numpy(_place(mask_hw, placement).copy()).to(torch.float32) / 255.0


def learnt_part(item: DatasetItem) -> np.ndarray | None:
    """Where a picture is learnt from: uint8 (height, width), 255 = fully; None: everywhere.

    Raises:
        DatasetError: the mask is unreadable or has changed.
    """
    if item.mask_path is None:
        return None
    if item.mask_path == item.path:
        mask_hw = read_alpha(item.path, item.mask_digest)
    else:
        mask_hw = load_mask(item.mask_path, item.mask_digest)
    return 255 - mask_hw if item.mask_inverted and mask_hw is not None else mask_hw


def _place(pixels: np.ndarray, placement: Placement) -> np.ndarray:
    from PIL import Image

    left, top = placement.crop_left_top
    width, height = placement.bucket_size
    picture = Image.fromarray(pixels)
    if picture.size != placement.resized:
        picture = picture.resize(placement.resized, Image.Resampling.LANCZOS)
    if placement.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture)[top : top + height, left : left + width]


def _or_default(value: int | None, default: int) -> int:
    return default if value is None else value


def _aspect_distance(bucket: Size, size: Size) -> float:
    return abs(math.log(bucket[0] * size[1] / (bucket[1] * size[0])))


def lost_share(size: Size, bucket: Size) -> float:
    """Share of a picture's area that is cut off when it is scaled to cover a bucket."""
    (w, h), (bw, bh) = size, bucket
    return 1.0 - min(bw * h, bh * w) / max(bw * h, bh * w)


def _cost(size: Size, bucket: Size, resolution: int) -> float:
    """What a bucket loses of a picture: what it cuts off, and a little for being small."""
    area = min(resolution * resolution, size[0] * size[1])
    smaller = max(0.0, 1.0 - bucket[0] * bucket[1] / area)
    return lost_share(size, bucket) + SMALLER_COSTS * smaller


def _own_bucket(
    size: Size, resolution: int, step: int, low: int, high: int | None, upscale: bool
) -> Size:
    """The bucket of least cost for one picture: one side given, the other as the shape wants it."""
    area = resolution * resolution
    longest = min(high or area, area // step) // step * step
    scale = math.sqrt(area / (size[0] * size[1]))
    scale = max(scale if upscale else min(1.0, scale), step / min(size))
    low = min(-(-low // step) * step, longest)
    found = []
    for side in (0, 1):
        ratio = size[1 - side] / size[side]
        largest = int(size[side] * scale + 1e-6) // step * step
        sides = (largest, largest - step, largest - 2 * step)
        for one in {min(max(n, low), longest) for n in sides}:
            for other in (int(one * ratio) // step * step, -int(-one * ratio // step) * step):
                other = min(max(other, low), longest, max(step, area // one // step * step))
                found.append((one, other) if side == 0 else (other, one))
    limits = [longest if upscale else max(step, s, int(s * scale)) for s in size]
    fitting = [b for b in found if b[0] <= limits[0] and b[1] <= limits[1]] or [
        tuple(min(b, limit // step * step) for b, limit in zip(found[0], limits, strict=True))
    ]
    return min(fitting, key=lambda b: (_cost(size, b, resolution), b))


def _cover(size: Size, bucket: Size) -> Size:
    """`size` scaled by the least factor that covers `bucket`; whole numbers, halves round up."""
    (w, h), (bw, bh) = size, bucket
    if bw * h >= bh * w:
        return bw, max(bh, (2 * h * bw + w) // (2 * w))
    return max(bw, (2 * w * bh + h) // (2 * h)), bh
