"""Keep pictures that come from memory as files, under a name made from their content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import Progress, describe
from .errors import DatasetError
from .folders import Found, Group
from .images import MATTE
from .pairing import MASK_SUFFIX
from .records import Dataset, DatasetSettings, Issue
from .wholefile import whole_file


def keep_pictures(
    root: Path,
    images_hwc: Sequence[np.ndarray],
    captions: Sequence[str],
    settings: DatasetSettings,
    masks_hw: Sequence[np.ndarray | None] = (),
    category: str = "",
    repeats: int = 1,
    resolution: int = 1024,
    progress: Progress | None = None,
) -> Dataset:
    """Write pictures to root/<digest of pictures and masks>/0001.png ... and describe them.

    A file appears complete or not at all; the same pictures are written once.

    Args:
        root: the store; made if missing.
        images_hwc: float (height, width, 1, 3 or 4) in [0, 1]; alpha is filled with mid grey.
        captions: one per picture, or one for all; "" stands for no caption.
        settings: trigger, templates and default caption.
        masks_hw: float (height, width) in [0, 1] per picture, 1 = learn from here, or None;
            another size is stretched, an empty mask is left out and named in the issues.
        category: "" or a key of CATEGORIES.
        repeats: how often an epoch shows each picture.
        resolution, progress: as for `dataset.read_dataset`.

    Raises:
        DatasetError: no pictures, a wrong number of captions or masks, odd shapes or values.
    """
    texts = _spread(captions, len(images_hwc))
    if masks_hw and len(masks_hw) != len(images_hwc):
        raise DatasetError(
            f"{len(masks_hw)} masks for {len(images_hwc)} pictures: give one for each, or none."
        )
    pictures = [_to_bytes(image, f"Picture {n}") for n, image in enumerate(images_hwc, 1)]
    issues: list[Issue] = []
    masks = [
        _mask_to_bytes(mask, picture.shape[:2], n, issues)
        for n, (mask, picture) in enumerate(
            zip(masks_hw or [None] * len(pictures), pictures, strict=True), 1
        )
    ]
    folder = _write(root, pictures, masks)
    group = Group(category=category, repeats=repeats)
    found = [
        Found(
            folder / _name(n),
            _name(n),
            group,
            " ".join(texts[n - 1].split()),
            folder / _name(n, MASK_SUFFIX) if mask is not None else None,
        )
        for n, mask in enumerate(masks, 1)
    ]
    return describe(
        found, settings, settings.name or "pictures from the graph", issues, resolution, progress
    )


def _spread(captions: Sequence[str], count: int) -> list[str]:
    if count == 0:
        raise DatasetError("No pictures: connect an image batch with at least one picture.")
    if len(captions) == 1:
        return list(captions) * count
    if len(captions) != count:
        raise DatasetError(
            f"{len(captions)} captions for {count} pictures: give one for all, or one per picture."
        )
    return list(captions)


def _to_bytes(image_hwc: np.ndarray, what: str) -> np.ndarray:
    shape = tuple(image_hwc.shape)
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        raise DatasetError(f"{what} has shape {shape}: height, width and 1, 3 or 4 are expected.")
    values = np.asarray(image_hwc, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DatasetError(f"{what} holds values that are not numbers: check the node before.")
    values = np.clip(values, 0.0, 1.0)
    if shape[2] == 4:
        alpha = values[..., 3:]
        values = values[..., :3] * alpha + (1 - alpha) * (MATTE / 255)
    return np.rint(np.broadcast_to(values, (*shape[:2], 3)) * 255).astype(np.uint8)


def _mask_to_bytes(
    mask_hw: np.ndarray | None, size_hw: tuple[int, ...], number: int, issues: list[Issue]
) -> np.ndarray | None:
    if mask_hw is None:
        return None
    if mask_hw.ndim != 2 or 0 in mask_hw.shape:
        raise DatasetError(f"Mask {number} has shape {mask_hw.shape}: height, width is expected.")
    values = np.nan_to_num(np.clip(np.asarray(mask_hw, dtype=np.float32), 0.0, 1.0))
    if not values.any():  # core's Load Image gives an all-zero mask for a picture without alpha
        issues.append(
            Issue(_name(number), "warning", "its mask is empty and not used: paint one, or none")
        )
        return None
    mask = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if mask.size != size_hw[::-1]:
        mask = mask.resize(size_hw[::-1], Image.Resampling.BILINEAR)
    return np.asarray(mask)


def _name(number: int, suffix: str = "") -> str:
    return f"{number:04d}{suffix}.png"


def _write(root: Path, pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> Path:
    digest = hashlib.sha256()
    for array in (*pictures, *masks):
        digest.update(repr(None if array is None else array.shape).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    folder = root / digest.hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (pixels, mask) in enumerate(zip(pictures, masks, strict=True), 1):
            _write_png(folder / _name(number), pixels)
            if mask is not None:
                _write_png(folder / _name(number, MASK_SUFFIX), mask)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DatasetError(f"Cannot keep the pictures ({reason}): free some space.") from error
    return folder


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Nothing is done where the file exists: its folder's name says what it holds."""
    if path.exists():
        return
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, "PNG", compress_level=4)
