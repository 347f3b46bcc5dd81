"""Files that are there only when they are complete, and what a disk may answer to that."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import VideoError

REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file grew larger than this disk or process may write: shorten the film",
    errno.EACCES: "the folder may not be written to: choose another place",
    errno.EROFS: "the folder may not be written to: choose another place",
    errno.ENOENT: "its folder does not exist: make it or choose another place",
}


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns what the disk refuses into a message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        raise VideoError(f"Cannot write {name}: {REMEDIES[error.errno]}.") from error


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[str]:
    """The name to write to, NAME.part; it becomes `path` when the block ends well.

    On any error or interrupt the part is removed and an older file of that name stays.

    Raises:
        VideoError: the disk refuses; says why and what to do.
    """
    target = os.fspath(path)
    part = target + ".part"
    try:
        with explained(os.path.basename(target)):
            open(part, "wb").close()  # tells a wrong place from what an encoder may refuse
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.remove(part)
        raise
