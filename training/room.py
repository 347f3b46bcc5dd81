"""Whether the disk has room for what a run will write."""

import shutil
from pathlib import Path

LORA_BYTES = 4  # per weight, at most: the finished file, and its copy
STATE_BYTES = 12  # per weight: itself and an optimizer's two numbers, in float32


def room_warning(folder: Path, weights: int, keep: int) -> str:
    """What to tell a user whose disk will run full, "" if it has room.

    Args:
        folder: of the run.
        weights: how many numbers are trained.
        keep: states that stay on disk; one more exists while it is written.
    """
    need = weights * (STATE_BYTES * (keep + 1) + 2 * LORA_BYTES)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    if free > need:
        return ""
    return (
        f"The disk of {folder.parent} has {free / 2**20:.0f} MB free, and this run will want "
        f"{need / 2**20:.0f} MB: make room, or lower saving.keep from {keep}."
    )
