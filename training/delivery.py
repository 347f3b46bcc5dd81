"""Where the files of a run go when it is finished, and what earlier runs left behind."""

import shutil
from pathlib import Path

from .errors import TrainingError
from .wholefile import (
    check_replaceable,
    discard,
    in_words,
    is_same,
    remove_all_left,
    whole_file,
)


def clear_up(run_dir: Path) -> None:
    """Remove what a killed process left in a run folder; only for who holds its lock."""
    for pattern in ("*.part", "*/*.part", "*.unchecked.safetensors"):
        for left in run_dir.glob(pattern):
            discard(left)


def check_place(output: str) -> None:
    """Find out before the training whether `saving.output` can be written after it.

    Raises:
        TrainingError: it cannot; says why.
    """
    if not output:
        return
    target = Path(output)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_all_left(target.parent, target.name)
        check_replaceable(target)
    except OSError as error:
        raise TrainingError(
            f"Setting 'saving.output': {target} cannot be written ({in_words(error)})."
        ) from None


def deliver(file: Path, output: str, beside: str = "") -> Path:
    """Copy a file to where the user wants the LoRA, or beside it under another stem.

    Raises:
        OSError: see `whole_file`.
    """
    if not output:
        return file
    target = Path(output)
    if beside:
        beside += "_embedding" if beside == target.stem else ""
        target = target.with_name(f"{beside}.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_same(target, file.read_bytes()):
        with whole_file(target) as part:
            shutil.copyfile(file, part)
    return target
