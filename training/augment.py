"""The versions a picture is trained in: mirrored, cut elsewhere, closer, in other colours.

Version number n of a picture is a pure function of (seed, content, n), so each can be encoded once
and kept under a name made from what it shows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .buckets import Colour, Placement
from .data_settings import AugmentSettings
from .rng import generator

RANDOM_CROP = "random"
DIGITS = 4  # of colour factors: what is written in a key is exactly what is applied


class PictureVariants:
    """The versions of pictures under given settings.

    Args:
        settings: the section `augment` of a job.
        crop: `buckets.crop`.
        seed: the job's seed.
    """

    def __init__(self, settings: AugmentSettings, crop: str, seed: int):
        self._settings = settings
        self._crop = crop
        self._seed = seed

    def of(self, placement: Placement) -> tuple[Placement, ...]:
        """Every version of a picture, in order; only itself if nothing is random."""
        settings = self._settings
        colours = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
        changes = any(colours) or settings.zoom or self._crop == RANDOM_CROP
        if not changes:  # then there are two versions, or one
            mirrored = replace(placement, flip=True).with_crop(_mirrored(placement))
            both = settings.flip and settings.variants > 1
            return (placement, mirrored) if both else (placement,)
        return tuple(self._version(placement, n) for n in range(settings.variants))

    def choose(self, count: int, position: int, slot: int) -> int:
        """Which of `count` versions a batch shows; arguments as `CaptionVariants.choose`."""
        if count == 1:
            return 0
        random = generator(self._seed, "version of", position, slot)
        return int(torch.randint(count, (1,), generator=random))

    def _version(self, placement: Placement, number: int) -> Placement:
        random = generator(
            self._seed, "version", placement.item.digest, *placement.bucket_size, number
        )
        zoom, left, top, *factors = torch.rand(7, generator=random, dtype=torch.float64).tolist()
        settings = self._settings
        scale = 1 + zoom * settings.zoom
        width, height = (round(side * scale) for side in placement.resized)
        placement = replace(
            placement,
            resized=(width, height),
            crop_left_top=(0, 0),
            flip=settings.flip and number % 2 == 1,
            colour=self._colour(factors),
        )
        if self._crop != RANDOM_CROP:
            at = placement.with_crop(self._crop)
            return at.with_crop(_mirrored(at)) if placement.flip else at
        bucket = placement.bucket_size
        return placement.with_crop(
            (int(left * (width - bucket[0] + 1)), int(top * (height - bucket[1] + 1)))
        )

    def _colour(self, factors: Sequence[float]) -> Colour | None:
        settings = self._settings
        reach = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
        if not any(reach):
            return None
        pairs = zip(factors, reach, strict=True)
        moves = [round((2 * factor - 1) * share, DIGITS) for factor, share in pairs]
        return Colour(*(round(1 + move, DIGITS) for move in moves[:3]), moves[3])


def _mirrored(placement: Placement) -> tuple[int, int]:
    """The offset at which the mirrored picture shows the same part."""
    left, top = placement.crop_left_top
    return placement.resized[0] - placement.bucket_size[0] - left, top


def recoloured(pixels_hwc: np.ndarray, colour: Colour) -> np.ndarray:
    """uint8 (height, width, 3) with brightness, contrast, saturation and hue changed, in order.

    The definitions of torchvision's `adjust_*`: brightness scales, contrast blends with the mean
    luma, saturation with each pixel's luma (ITU-R 601), hue turns the H of HSV.
    """
    values = pixels_hwc.astype(np.float32) / 255.0
    values = np.clip(values * colour.brightness, 0, 1)
    mean = _luma(values).mean()
    values = np.clip(mean + (values - mean) * colour.contrast, 0, 1)
    gray = _luma(values)[..., None]
    values = np.clip(gray + (values - gray) * colour.saturation, 0, 1)
    if colour.hue:
        values = _turned(values, colour.hue)
    return np.rint(values * 255).astype(np.uint8)


def _luma(values: np.ndarray) -> np.ndarray:
    return values @ np.array([0.2989, 0.587, 0.114], dtype=np.float32)


def _turned(values: np.ndarray, turn: float) -> np.ndarray:
    """RGB in [0, 1] with the hue turned by `turn` of a circle, by way of HSV.

    Back from HSV by f(n) = v - c max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6, for n = 5, 3, 1.
    """
    red, green, blue = np.moveaxis(values, -1, 0)
    high, low = values.max(-1), values.min(-1)
    chroma = high - low
    safe = np.where(chroma > 0, chroma, 1)
    hue = np.where(
        high == red,
        (green - blue) / safe,
        np.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turn
    turned = []
    for n in (5, 3, 1):
        k = np.mod(n + hue, 6)
        turned.append(high - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(turned, axis=-1)
