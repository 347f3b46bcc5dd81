"""Keep pictures that come from memory as files, under a name made from their content."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .captions import compose_caption
from .errors import DatasetError
from .folders import MASK_SUFFIX
from .images import MATTE
from .records import CATEGORIES, DEFAULT_TEMPLATE, Dataset, DatasetItem, DatasetSettings, Issue


def keep_pictures(
    root: Path,
    images_hwc: Sequence[np.ndarray],
    captions: Sequence[str],
    masks_hw: Sequence[np.ndarray | None] = (),
    settings: DatasetSettings | None = None,
    category: str = "",
    repeats: int = 1,
) -> Dataset:
    """Write pictures to root/<digest of pictures and masks>/0001.png ... and describe them.

    A folder appears complete or not at all; the same pictures are written once.

    Args:
        root: the store; made if missing.
        images_hwc: float (height, width, 1, 3 or 4) in [0, 1]; alpha is filled with mid grey.
        captions: one per picture, or one for all; "" stands for no caption.
        masks_hw: float (height, width) in [0, 1] per picture, 1 = learn from here, or None;
            another size is stretched, an empty mask is left out and named in the issues.
        settings: trigger, templates and default caption.
        category: "" or a key of CATEGORIES.
        repeats: how often an epoch shows each picture.

    Raises:
        DatasetError: no pictures, a wrong number of captions or masks, odd shapes or values.
    """
    settings = settings or DatasetSettings()
    texts = _spread(captions, len(images_hwc))
    if masks_hw and len(masks_hw) != len(images_hwc):
        raise DatasetError(
            f"{len(masks_hw)} masks for {len(images_hwc)} pictures: give one for each, or none."
        )
    pictures = [_to_bytes(image, f"picture {n}") for n, image in enumerate(images_hwc, 1)]
    issues: list[Issue] = []
    masks = [
        _mask_to_bytes(mask, picture.shape[:2], n, issues)
        for n, (mask, picture) in enumerate(
            zip(masks_hw or [None] * len(pictures), pictures, strict=True), 1
        )
    ]
    folder = _write(root, pictures, masks)
    items = []
    for number, (pixels, mask) in enumerate(zip(pictures, masks, strict=True), 1):
        path = folder / _name(number)
        mask_path = folder / _name(number, MASK_SUFFIX) if mask is not None else None
        caption = _caption(texts[number - 1], settings, category)
        if not caption:
            issues.append(Issue(path.name, "warning", "no caption: type one, or set a trigger"))
        items.append(
            DatasetItem(
                path=path,
                caption=caption,
                category=category,
                trigger=_category_trigger(settings, category),
                repeats=repeats,
                width=pixels.shape[1],
                height=pixels.shape[0],
                digest=_file_digest(path),
                mask_path=mask_path,
                mask_digest=_file_digest(mask_path) if mask_path else "",
            )
        )
    return Dataset(tuple(items), tuple(issues), settings.name or "pictures from the graph")


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


def _category_trigger(settings: DatasetSettings, category: str) -> str:
    own = settings.categories.get(category)
    return (own.trigger.strip() if own else "") or settings.trigger.strip()


def _caption(text: str, settings: DatasetSettings, category: str) -> str:
    own = settings.categories.get(category)
    template = (own.template if own else "") or settings.template
    template = template or (CATEGORIES[category].template if category else DEFAULT_TEMPLATE)
    trigger = _category_trigger(settings, category)
    plain = " ".join(text.split())
    return compose_caption(template, plain or settings.default_caption, trigger, category) or (
        trigger
    )


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
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=root))
    try:
        for number, (pixels, mask) in enumerate(zip(pictures, masks, strict=True), 1):
            Image.fromarray(pixels).save(part / _name(number), compress_level=4)
            if mask is not None:
                Image.fromarray(mask).save(part / _name(number, MASK_SUFFIX), compress_level=4)
        os.replace(part, folder)
    except OSError as error:
        if not folder.is_dir():  # else another run was faster, with the same content
            reason = error.strerror or type(error).__name__
            raise DatasetError(
                f"The pictures cannot be kept ({reason}): free some space."
            ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
