"""Caption a folder: one editable .txt file beside each picture, none ever lost."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .captioner import Describe, Progress, with_prefix
from .captions import read_caption
from .entries import printable
from .errors import DatasetError
from .folders import Found, scan_folder
from .images import load_image
from .pairing import folded
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
    unless `overwrite`: then the very file that is its caption is written anew. No other file is
    ever touched, whatever its letter case. A file appears complete or empty, and an empty one
    counts as none, so a broken-off run can be repeated.

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
        target = _target(picture)
        if target in new:  # a.jpg beside a.png: they share one caption
            results.append(Captioned(picture.name, new[target]))
            continue
        results.append(_caption_one(picture, target, describe, prefix, overwrite))
        if results[-1].written:
            new[target] = results[-1].caption
    progress(len(results), len(found))
    return results


def _target(picture: Found) -> Path:
    if isinstance(picture.caption, Path):
        return picture.caption
    return picture.path.with_suffix(".txt")


def _caption_one(
    picture: Found, target: Path, describe: Describe, prefix: str, overwrite: bool
) -> Captioned:
    present = _present(picture)
    if present and not overwrite:
        return Captioned(picture.name, present)
    if target != picture.caption and (other := _in_the_way(target)):
        return Captioned(
            picture.name,
            present,
            error=f"{picture.name}: {other} is there already and not its caption: nothing is "
            "written; rename one of the two.",
        )
    try:
        pixels_hwc: np.ndarray = load_image(picture.path)
    except DatasetError as error:
        return Captioned(picture.name, present, error=str(error))
    caption = with_prefix(prefix, describe(pixels_hwc))
    try:
        if target == picture.caption:
            write_bytes(target, f"{caption}\n".encode())
        else:
            _write_new(target, f"{caption}\n".encode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DatasetError(
            f"{picture.name}: its caption cannot be written ({reason}): make the folder writable "
            "and free some space."
        ) from None
    return Captioned(picture.name, caption, written=True)


def _in_the_way(target: Path) -> str:
    """A file that has the name of `target` in any letter case, "" if there is none."""
    wanted = folded(target.name)
    try:
        return next((n for n in os.listdir(target.parent) if folded(n) == wanted), "")
    except OSError:  # writing will say why
        return ""


def _write_new(path: Path, data: bytes) -> None:
    """As `write_bytes`, but never onto a file that is there.

    Raises:
        OSError: FileExistsError, or as `write_bytes`.
    """
    with open(path, "xb"):  # the name is ours from here on
        pass
    try:
        write_bytes(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


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
    return printable("\n".join(lines))
