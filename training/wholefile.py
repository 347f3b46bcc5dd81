"""Files that are there only when they are complete, also beside programs that hold them open.

A file is written as NAME.1.troupe.part beside its place and is locked while that goes on: a part
without a lock belongs to a process that was killed. Windows has no such lock and needs none, since
nobody can remove there what is open.

This module stands in training/ and in video/, which import nothing of each other; a test holds the
two equal.
"""

import errno
import glob
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

PART = ".troupe.part"
PATIENCE_SECONDS = 10.0  # virus scanners, indexers and backups let go after a moment
PAUSE_SECONDS = 0.1
QUIET_SECONDS = 60.0  # after which a part that may be open without our seeing it counts as left
BUSY = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY)
BUSY_ON_WINDOWS = (5, 32, 33, 1224)  # denied, shared, locked, mapped into memory
OPEN_ON_WINDOWS = (32, 33, 1224)  # of these, what only an open file answers

T = TypeVar("T")


class FileInUse(OSError):
    """Another program does not let go of a file; the message names it and what was kept."""

    def __init__(self, path: Path, kept: Path | None = None):
        super().__init__(errno.EBUSY, "in use by another program", str(path))
        self.kept = kept

    def __str__(self) -> str:
        name = os.path.basename(self.filename)
        said = f"Another program has {name} open, or it is write-protected: close it there"
        if self.kept is None:
            return f"{said} and start again: {self.filename}."
        return f"{said}. Nothing is lost: the finished file is {self.kept}."


class NameTaken(FileExistsError):
    """A new file cannot have this name: there is one, or another process is writing it."""


def is_busy(error: OSError) -> bool:
    """Whether the error may pass when another program lets go of the file."""
    return error.errno in BUSY or getattr(error, "winerror", None) in BUSY_ON_WINDOWS


def in_words(error: OSError) -> str:
    """An error of the disk for a person, without a full stop."""
    if getattr(error, "winerror", None) in OPEN_ON_WINDOWS and not isinstance(error, FileInUse):
        name = os.path.basename(error.filename2 or error.filename or "the file")
        return f"another program has {name} open: close it there"
    if isinstance(error, FileInUse) or not error.strerror:
        return str(error).rstrip(".")
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def patiently(action: Callable[[], T], path: Path) -> T:
    """The result of an action on `path`, tried again for some seconds while the file is busy.

    Raises:
        FileInUse: it stayed busy.
        OSError: anything else, at once.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action()
        except OSError as error:
            if not is_busy(error) or path.is_dir():  # Windows says of a folder what it says of busy
                raise
            if time.monotonic() >= end:
                raise FileInUse(path) from error
        time.sleep(PAUSE_SECONDS)


def discard(path: Path) -> bool:
    """Remove a file that nobody needs; whether it is gone. Never an error."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # open elsewhere: next time
        return False
    return True


# ------------------------------------------------------------------------------------- writing


@contextmanager
def whole_file(path: Path, new: bool = False) -> Iterator[Path]:
    """The name to write to; it becomes `path` when the block ends well.

    On any error or interrupt the part is removed and an older file of that name stays. Where
    `path` is held open by another program, the finished part is kept beside it.

    Args:
        new: never write over a file, nor under a name that another process is writing.

    Raises:
        NameTaken: only for `new`; before the block, or after it if somebody was faster.
        FileInUse: another program holds `path`; names the finished file.
        OSError: the disk is full or not writable, the folder does not exist.
    """
    part, claim = _claim(path, new)
    try:
        try:
            yield part
            _flush(part)
        except BaseException:
            discard(part)
            raise
        _put(part, path, new)
    finally:
        claim.close()
    _flush_folder(path.parent)


def _claim(path: Path, new: bool) -> tuple[Path, IO[bytes]]:
    """A part that is ours alone, and what holds it."""
    number = 1
    while True:
        part = path.with_name(f"{path.name}.{number}{PART}")
        try:
            claim = open(part, "xb")
        except FileExistsError:
            if remove_left(part):
                continue
            if new:
                raise NameTaken(f"{path.name} is being written by another process") from None
            number += 1
            continue
        if os.name == "nt":  # whoever writes holds it open
            claim.close()
        else:
            with suppress(OSError):  # some network disks have no locks
                _lock(claim, wait=True)  # for one who just looks whether it was left
        # after the part: who had the name before has put it in place by now
        if new and os.path.lexists(path):
            discard(part)
            claim.close()
            raise NameTaken(f"{path.name} exists")
        return part, claim


def _put(part: Path, path: Path, new: bool) -> None:
    if new and os.name != "nt":  # where a rename replaces; a link never does
        try:
            os.link(part, path)
        except FileExistsError:
            discard(part)
            raise NameTaken(f"{path.name} exists") from None
        except OSError:  # a disk without links: the claim has to do
            pass
        else:
            discard(part)
            return
    try:
        patiently(lambda: (os.rename if new else os.replace)(part, path), path)
    except FileInUse as error:
        error.kept = _kept(part, path)
        raise
    except FileExistsError:  # Windows' rename
        discard(part)
        raise NameTaken(f"{path.name} exists") from None
    except OSError:
        discard(part)
        raise


def _kept(part: Path, path: Path) -> Path:
    """A finished part under a name of its own, or at least where no clearing up takes it."""
    kept = path.with_name(f"{path.stem} (finished){path.suffix}")
    with suppress(OSError):
        if not kept.exists():
            os.rename(part, kept)
            return kept
    with suppress(OSError):
        os.chmod(part, stat.S_IREAD)  # see remove_left
    return part


def _flush(part: Path) -> None:
    try:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        if not is_busy(error):  # a scanner: the rename waits for it
            raise


def _lock(file: IO[bytes], wait: bool = False) -> None:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, and the rename is journalled
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --------------------------------------------------------------------------------- clearing up


def remove_left(part: Path) -> bool:
    """Remove a part whose writer was killed; whether there is none now. Never an error.

    What another process writes stays, and so does what cannot be told; a finished file that was
    kept is write-protected.
    """
    try:
        about = part.stat()
        if not about.st_mode & stat.S_IWRITE:
            return False
        quiet = time.time() - about.st_mtime >= QUIET_SECONDS
        if os.name == "nt":
            if quiet:
                part.unlink()
            return quiet
        with open(part, "rb+") as file:
            _lock(file)
            about = os.fstat(file.fileno())
            # another one may have its place by now, or a writer may not have got to its lock yet
            if not os.path.samestat(about, part.stat()) or not (about.st_size or quiet):
                return False
            part.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_all_left(folder: Path, stem: str) -> None:
    """Remove what killed processes left of files in `folder` whose names begin with `stem`."""
    for part in folder.glob(f"{glob.escape(stem)}*{PART}"):
        remove_left(part)


# ------------------------------------------------------------------------------ what is there


def is_same(path: Path, data: bytes) -> bool:
    """Whether a file holds exactly these bytes."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def check_replaceable(path: Path) -> None:
    """Find out before long work whether a file can be written there after it.

    A file that is there is replaced by its own copy: on Windows only that tells whether a program
    has it mapped into memory, as ComfyUI has LoRAs it uses.

    Raises:
        FileInUse, OSError: it cannot.
    """
    part, claim = _claim(path, new=False)
    try:
        if path.is_file():
            shutil.copy2(path, part)
            patiently(lambda: os.replace(part, path), path)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # room is looked at elsewhere
            raise
    finally:
        discard(part)
        claim.close()
