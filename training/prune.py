"""Keep the cache of encoded pictures and captions from growing without end."""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

KINDS = ("latents", "masks", "text")  # sub-folders of a cache
RECENT_SECONDS = 24 * 3600  # entries used since then may belong to a run that is still going on


@dataclass(frozen=True)
class Pruned:
    """What was removed from a cache, and what is left in it."""

    removed: int
    freed_bytes: int
    left: int
    left_bytes: int


def mark_used(paths: Iterable[Path]) -> None:
    """Remember that entries were needed now: their access time is set, whatever the disk does."""
    now = time.time_ns()
    for path in paths:
        try:
            os.utime(path, ns=(now, path.stat().st_mtime_ns))
        except OSError:  # a read-only cache is still a cache
            return


def prune(
    cache: Path,
    limit_bytes: int,
    keep: Iterable[Path] = (),
    recent_seconds: float = RECENT_SECONDS,
) -> Pruned:
    """Remove the entries that have not been used for longest until the rest fits.

    Nothing but a cache's own files is touched; unfinished files of broken-off runs go as well.

    Args:
        cache: the folder that holds latents/, masks/ and text/.
        limit_bytes: what may stay.
        keep: never removed.
        recent_seconds: nor is what was used since then.
    """
    kept, now = set(keep), time.time()
    entries = sorted(_entries(cache), key=lambda entry: entry[0])
    size = sum(entry[1] for entry in entries)
    removed = freed = 0
    for used, length, path in entries:
        stale = path.suffix == ".part"
        if size - freed <= limit_bytes and not stale:
            continue
        if path in kept or now - used < recent_seconds:
            continue
        try:
            path.unlink()
        except OSError as error:  # somebody else was faster, or it is not ours
            log.warning("Cache entry %s cannot be removed: %s", path.name, error)
            continue
        removed, freed = removed + 1, freed + length
    return Pruned(removed, freed, len(entries) - removed, size - freed)


def _entries(cache: Path) -> list[tuple[float, int, Path]]:
    """(last use in seconds since 1970, bytes, path) of every file that a cache wrote."""
    found = []
    for kind in KINDS:
        for pattern in ("*.safetensors", "*.safetensors.*.part"):
            for path in (cache / kind).glob(pattern):
                try:
                    info = path.lstat()
                except OSError:
                    continue
                found.append((max(info.st_atime, info.st_mtime), info.st_size, path))
    return found
