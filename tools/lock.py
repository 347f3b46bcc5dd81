"""A lock between processes, on a file. Standard library only: run.py uses it before any install."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

if os.name == "nt":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike, timeout: float = 1800.0) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the system frees it when the process ends, however it ends.

    Raises:
        TimeoutError: another process held the lock for `timeout` seconds.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                _try_lock(descriptor)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"Another process holds {path}; end it first.") from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)  # closing releases the lock
