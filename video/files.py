"""What a disk may answer to a film, in words; see `wholefile` for how files are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import wholefile
from .errors import VideoError

REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file grew larger than this disk or process may write: shorten the film",
    errno.EACCES: "the folder may not be written to: choose another place",
    errno.EROFS: "the folder may not be written to: choose another place",
    errno.ENOENT: "its folder does not exist: make it or choose another place",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
}


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns what the disk refuses into a message that says what to do."""
    try:
        yield
    except wholefile.FileInUse as error:
        raise VideoError(str(error)) from error
    except OSError as error:
        if getattr(error, "winerror", None) in wholefile.OPEN_ON_WINDOWS:
            raise VideoError(f"Cannot write {name}: {wholefile.in_words(error)}.") from error
        if error.errno not in REMEDIES:
            raise
        raise VideoError(f"Cannot write {name}: {REMEDIES[error.errno]}.") from error


@contextmanager
def whole_file(path: str | os.PathLike, new: bool = False) -> Iterator[str]:
    """The name to write to; it becomes `path` when the block ends well.

    On any error or interrupt the part is removed and an older file of that name stays.

    Args:
        new: never write over a file, nor under a name that another process is writing.

    Raises:
        VideoError: the disk refuses, or another program has `path` open, and then the finished
            file lies beside it; says why and what to do.
        NameTaken: only for `new`.
    """
    target = Path(path)
    with explained(target.name), wholefile.whole_file(target, new) as part:
        yield os.fspath(part)
