"""From a folder, or a list of pictures, to a Dataset.

The way: `folders` finds the files, `images` decodes each once (in a few threads, since Pillow
works outside the interpreter lock), `quality` looks at the pixels, `captions` makes the text.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from .captions import clean_lines, read_caption
from .errors import DatasetError
from .folders import Found, Scan, scan_folder
from .images import Picture, read_alpha, read_picture
from .quality import Traits, find_near_duplicates, is_blurred, measure
from .records import (
    CATEGORIES,
    MAX_REPEATS,
    MAX_WEIGHT,
    CategorySettings,
    Dataset,
    DatasetItem,
    DatasetSettings,
    Issue,
)

__all__ = [
    "CATEGORIES",
    "CategorySettings",
    "Dataset",
    "DatasetItem",
    "DatasetSettings",
    "Issue",
    "open_dataset",
    "read_dataset",
]

WORKERS = 4  # each holds one decoded picture

Progress = Callable[[int, int], None]


def open_dataset(settings: DatasetSettings) -> Dataset:
    """The dataset that settings describe: their items, or their folder read now.

    Raises:
        DatasetError: neither is given, or see `read_dataset`.
    """
    if settings.items:
        return Dataset(settings.items, (), settings.name or "dataset")
    if not settings.folder:
        raise DatasetError("No dataset: give dataset.folder (a folder with pictures).")
    return read_dataset(Path(settings.folder), settings)


def read_dataset(
    folder: Path,
    settings: DatasetSettings | None = None,
    *,
    resolution: int = 1024,
    allowed_roots: Iterable[Path] = (),
    progress: Progress | None = None,
) -> Dataset:
    """Read every picture of a folder once and describe it. For layouts see `folders`.

    Pictures that cannot be used are left out and named in `issues` with severity "error".

    Args:
        folder: the dataset; `settings.folder` is not looked at.
        settings: trigger, templates, repeats; all defaults if None.
        resolution: the training resolution in pixels, for the hint about small pictures.
        allowed_roots: folders that links inside the dataset may lead to, besides itself.
        progress: called with (pictures read, pictures in all); what it raises ends the reading.

    Raises:
        DatasetError: no folder, no pictures in it, or none that can be read.
    """
    settings = settings or DatasetSettings()
    folder = Path(os.path.abspath(folder))
    scan = scan_folder(folder, settings.extensions, allowed_roots)
    name = settings.name or folder.name
    if not scan.found:
        raise DatasetError(_nothing_found(name, scan))
    remarks = [*scan.issues, *_unused_settings(scan.found, settings)]
    return describe(scan.found, settings, name, remarks, resolution, progress)


def describe(
    found: Sequence[Found],
    settings: DatasetSettings,
    name: str,
    remarks: Sequence[Issue] = (),
    resolution: int = 1024,
    progress: Progress | None = None,
) -> Dataset:
    """Look at every picture once; the dataset has its issues after `remarks`.

    Raises:
        DatasetError: none of the pictures can be used.
    """
    issues = list(remarks)
    if settings.regularisation:
        found = [replace(f, group=replace(f.group, category="", prior=True)) for f in found]
    looks = _look_at_all(found, settings, progress)
    pairs = list(zip(found, looks, strict=True))
    issues += [Issue(f.name, "error", look.error) for f, look in pairs if look.error]
    kept = [(f, look) for f, look in pairs if not look.error]
    if not kept:
        bad = issues[-1]
        raise DatasetError(f"{name}: none of its pictures can be used. {bad.path}: {bad.message}")
    if settings.skip_duplicates:
        kept = _without_duplicates(kept, issues)
    items = tuple(_make_item(f, look, settings, issues) for f, look in kept)
    issues += _quality_hints(kept, resolution)
    return Dataset(items, tuple(issues), name)


@dataclass(frozen=True)
class _Look:
    """What decoding one picture told; `error` is set instead if it failed."""

    width: int = 0
    height: int = 0
    digest: str = ""
    mask_digest: str = ""
    remarks: tuple[str, ...] = ()
    traits: Traits | None = None
    error: str = ""
    mask_path: Path | None = None
    focus: tuple[float, float] | None = None


def _look_at(found: Found, settings: DatasetSettings) -> _Look:
    try:
        picture = read_picture(found.path)
    except DatasetError as error:
        return _Look(error=_without_name(error, found.path))
    height, width = picture.pixels_hwc.shape[:2]
    remarks, mask = list(picture.remarks), _Mask()
    use = settings.mask_use(found.group.category)
    if use != "ignore" and not found.group.prior:
        mask = _look_at_mask(found, picture, settings, remarks)
    return _Look(
        width,
        height,
        picture.digest,
        mask.digest,
        tuple(remarks),
        measure(picture.pixels_hwc),
        mask_path=mask.path,
        focus=mask.focus,
    )


@dataclass(frozen=True)
class _Mask:
    """The mask that is used, if there is one."""

    path: Path | None = None
    digest: str = ""
    focus: tuple[float, float] | None = None


def _look_at_mask(
    found: Found, picture: Picture, settings: DatasetSettings, remarks: list[str]
) -> _Mask:
    path, mask = found.mask, None
    if path is not None:
        try:
            read = read_picture(path)
        except DatasetError as error:
            remarks.append(f"its mask is not used: {_without_name(error, path)}")
            return _Mask()
        mask, digest = read.pixels_hwc.max(axis=2), read.digest
        if mask.shape != picture.pixels_hwc.shape[:2]:
            remarks.append("its mask has another size and is stretched over it")
    elif settings.alpha_masks:
        path, digest = found.path, picture.digest
        mask = read_alpha(path, digest)
    if mask is None:
        return _Mask()
    inverted = settings.mask_use(found.group.category) == "black"
    learnt = 255 - mask if inverted else mask
    if not learnt.any():
        colour = "white" if inverted else "black"
        remarks.append(f"its mask is all {colour}, so nothing would be learnt: it is not used")
        return _Mask()
    return _Mask(path, digest, _middle(learnt))


def _middle(learnt_hw: np.ndarray) -> tuple[float, float]:
    """Centre (x, y) of the box around what is mostly learnt, as shares of width and height."""
    most = learnt_hw >= min(128, learnt_hw.max())
    shares = []
    for axis in (0, 1):
        places = np.flatnonzero(most.any(axis=axis))
        shares.append(float(places[0] + places[-1] + 1) / 2 / most.shape[1 - axis])
    return shares[0], shares[1]


def _without_name(error: DatasetError, path: Path) -> str:
    return str(error).removeprefix(f"{path.name}: ")


def _look_at_all(
    found: Sequence[Found], settings: DatasetSettings, progress: Progress | None
) -> list[_Look]:
    looks = []
    pool = ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1))
    try:
        for look in pool.map(_look_at, found, repeat(settings)):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return looks


def _make_item(
    found: Found, look: _Look, settings: DatasetSettings, issues: list[Issue]
) -> DatasetItem:
    group = found.group
    own = settings.categories.get(group.category, CategorySettings())
    issues += [Issue(found.name, "warning", remark) for remark in look.remarks]
    written = _written_caption(found, settings, issues)
    caption = settings.caption_for(written, group.category, group.concept, group.prior)
    if not caption:
        message = "no caption: write one in a same-name .txt file, or set a trigger"
        issues.append(Issue(found.name, "warning", message))
    elif not written:
        issues.append(Issue(found.name, "hint", f'has no caption of its own: "{caption}" is used'))
    return DatasetItem(
        path=found.path,
        caption=caption,
        category=group.category,
        trigger="" if group.prior else settings.trigger_for(group.category, group.concept),
        repeats=min(MAX_REPEATS, group.repeats * own.repeats),
        width=look.width,
        height=look.height,
        digest=look.digest,
        mask_path=look.mask_path,
        mask_digest=look.mask_digest,
        mask_inverted=bool(look.mask_digest) and settings.mask_use(group.category) == "black",
        weight=min(MAX_WEIGHT, settings.weight * own.weight),
        prior=group.prior,
        focus=look.focus,
    )


def _written_caption(found: Found, settings: DatasetSettings, issues: list[Issue]) -> str:
    if not isinstance(found.caption, Path):
        lines = clean_lines(found.caption or "")
        return ("\n" if settings.caption_lines == "choose" else ", ").join(lines)
    try:
        written, remark = read_caption(found.caption, settings.caption_lines)
    except OSError as error:
        written, remark = "", f"its caption file cannot be read ({error.strerror})"
    if remark:
        issues.append(Issue(found.name, "warning", remark))
    return written


def _without_duplicates(
    pairs: Sequence[tuple[Found, _Look]], issues: list[Issue]
) -> list[tuple[Found, _Look]]:
    """The first of every group of look-alikes; the others are named. Concepts are kept apart."""
    groups: dict[tuple, list[int]] = {}
    for index, (found, _) in enumerate(pairs):
        group = found.group
        groups.setdefault((group.category, group.concept, group.prior), []).append(index)
    first_of: dict[int, int] = {}
    for members in groups.values():
        looks = [pairs[i][1] for i in members]
        for later, first in find_near_duplicates([look.traits for look in looks]).items():
            first_of[members[later]] = members[first]
        same: dict[str, int] = {}  # plain pictures are never alike, but may be copies
        for index, look in zip(members, looks, strict=True):
            if same.setdefault(look.digest, index) != index:
                first_of.setdefault(index, same[look.digest])
    for index, first in sorted(first_of.items()):
        message = f"left out: nearly the same as {pairs[first][0].name}"
        issues.append(Issue(pairs[index][0].name, "hint", message))
    return [pair for index, pair in enumerate(pairs) if index not in first_of]


def _quality_hints(pairs: Sequence[tuple[Found, _Look]], resolution: int) -> list[Issue]:
    issues = []
    first_of: dict[str, int] = {}
    alike = find_near_duplicates([look.traits for _, look in pairs])
    small = f"smaller than half of {resolution} px: use a larger version, or train smaller"
    for index, (f, look) in enumerate(pairs):
        first = first_of.setdefault(look.digest, index)
        if first != index:
            issues.append(
                Issue(f.name, "warning", f"the same file as {pairs[first][0].name}: keep one")
            )
        elif index in alike:
            message = f"looks nearly the same as {pairs[alike[index]][0].name}: keep the better one"
            issues.append(Issue(f.name, "hint", message))
        if min(look.width, look.height) < resolution / 2:
            issues.append(Issue(f.name, "hint", small))
        if is_blurred(look.traits):
            issues.append(Issue(f.name, "hint", "blurred or without detail: use a sharper one"))
    return issues


def _unused_settings(found: list[Found], settings: DatasetSettings) -> list[Issue]:
    present = {f.group.category for f in found}
    issues = [
        Issue(f"{name}/", "warning", "there are settings for this category, but no pictures")
        for name in settings.categories
        if name not in present
    ]
    if settings.trigger:
        plain = [f.group for f in found if not f.group.category and not f.group.prior]
        hidden = {group.concept for group in plain if group.concept}
        issues += [
            Issue("", "warning", f'"{name}" in the folder name gives way to "{settings.trigger}"')
            for name in sorted(hidden - {settings.trigger.strip()})
        ]
    return issues


def _nothing_found(name: str, scan: Scan) -> str:
    text = f"No images in {name}: put .png/.jpg files there, captions in same-name .txt."
    for issue in scan.issues[:3]:
        text += f" {issue.path}: {issue.message}."
    return text
