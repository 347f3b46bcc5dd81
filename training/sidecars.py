"""Caption a folder: one editable .txt file beside each picture, none ever lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .captioner import Describe, Progress, with_prefix
from .captions import read_caption
from .errors import DatasetError
from .folders import Found, scan_folder
from .images import load_image
from .records import EXTENSIONS, NAMES_PER_LINE
from .tensorfile import write_bytes

__all__ = ["Captioned", "caption_folder"]


@dataclass(frozen=True)
class Captioned:
    """What happened to one picture: its caption now, whether it was written now, or what failed."""

    name: str
    caption: str
    written: bool = False
    error: str = ""


def caption_folder(
    folder: Path,
    describe: Describe,
    prefix: str = "",
    overwrite: bool = False,
    allowed_roots: Iterable[Path] = (),
    progress: Progress = lambda done, total: None,
) -> list[Captioned]:
    """Write NAME.txt beside every picture of a dataset folder that has no caption yet.

    A picture with a caption (in .txt, .caption or metadata.jsonl) keeps it and is not looked at,
    unless `overwrite`. A file appears complete or not at all, so a broken-off run can be repeated.

    Args:
        describe: from pixels, uint8 (height, width, 3), to a caption.
        prefix: put before every new caption.

    Raises:
        DatasetError: no folder, no pictures in it, or a caption cannot be written.
    """
    found = scan_folder(folder, EXTENSIONS, allowed_roots).found
    if not found:
        raise DatasetError(f"No images in {folder.name}: put .png/.jpg files there.")
    results, new = [], {}
    for picture in found:
        progress(len(results), len(found))
        target = picture.path.with_suffix(".txt")
        if target in new:  # a.jpg beside a.png: they share one caption
            results.append(Captioned(picture.name, new[target]))
            continue
        results.append(_caption_one(picture, describe, prefix, overwrite))
        if results[-1].written:
            new[target] = results[-1].caption
    progress(len(results), len(found))
    return results


def _caption_one(picture: Found, describe: Describe, prefix: str, overwrite: bool) -> Captioned:
    present = _present(picture)
    if present and not overwrite:
        return Captioned(picture.name, present)
    try:
        pixels_hwc: np.ndarray = load_image(picture.path)
    except DatasetError as error:
        return Captioned(picture.name, present, error=str(error))
    caption = with_prefix(prefix, describe(pixels_hwc))
    try:
        write_bytes(picture.path.with_suffix(".txt"), f"{caption}\n".encode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DatasetError(
            f"{picture.name}: its caption cannot be written ({reason}): make the folder writable "
            "and free some space."
        ) from None
    return Captioned(picture.name, caption, written=True)


def _present(picture: Found) -> str:
    if isinstance(picture.caption, str):
        return picture.caption.strip()
    if picture.caption is None:
        return ""
    try:
        text, remark = read_caption(picture.caption)
    except OSError:
        return "?"  # it is there, and not ours to replace
    return text or ("?" if remark else "")


def report(results: list[Captioned]) -> str:
    """A few lines for a person: counts, failures by name, the first captions."""
    written = [r for r in results if r.written]
    kept = sum(not r.written and not r.error for r in results)
    lines = [f"{len(written)} captions written, {kept} kept."]
    lines += [f"  error: {r.error}" for r in results if r.error]
    lines += [f"  {r.name}: {r.caption}" for r in written[:NAMES_PER_LINE]]
    return "\n".join(lines)
