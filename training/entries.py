"""Directory entries as they may be met: links and junctions, loops, names that are no text."""

import os
from collections.abc import Callable

Skipped = Callable[[str, str], None]  # told a name below the root, and why it is passed over

_JUNCTION = 0xA0000003  # stat.IO_REPARSE_TAG_MOUNT_POINT, which only Windows names


def is_link(entry: os.DirEntry) -> bool:
    """Whether an entry is a symbolic link or, on Windows, a junction.

    DirEntry.is_junction is new in Python 3.12, so the tag that Windows reports is read.

    Raises:
        OSError: it cannot be looked at.
    """
    if entry.is_symlink():
        return True
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == _JUNCTION


def is_text(name: str) -> bool:
    """Whether a name is valid text; Linux allows any bytes, which no JSON and no page can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def printable(name: str) -> str:
    """A name for people, and safe to encode: what is no text in it becomes \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not is_text(name) else name


def subfolders(folder: str | os.PathLike, place: str, skipped: Skipped) -> tuple[list, list[str]]:
    """(entries, names of those that are folders one can go into), without hidden ones, unsorted.

    What cannot be looked at, or has a name that is no text, is told to `skipped`. Links that
    lead up to a folder they lie in are left out, since there is no end to them.
    """
    entries, folders = [], []
    try:
        with os.scandir(folder) as listed:
            seen = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        skipped(place, f"the folder is unreadable ({error.strerror or error})")
        return [], []
    for entry in seen:
        name = printable(f"{place}/{entry.name}" if place else entry.name)
        try:
            if not is_text(entry.name):
                skipped(name, "its name is not UTF-8: rename it")
                continue
            if entry.is_dir() and not (is_link(entry) and _leads_up(entry.path)):
                folders.append(entry.name)
            entries.append(entry)
        except OSError as error:
            skipped(name, f"it cannot be looked at ({error.strerror or error})")
    return entries, folders


def _leads_up(path: str) -> bool:
    places = (path, os.path.dirname(path))
    target, here = (os.path.join(os.path.normcase(os.path.realpath(p)), "") for p in places)
    return here.startswith(target)
