"""Pose files: one JSON file with all frames, or a folder with one JSON file per frame."""

import re
from pathlib import Path

from ..errors import PoseError
from .model import PoseFrame
from .reader import Units, assemble, labelled_frames

MAX_FILE_BYTES = 256 * 2**20


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts frame2 before frame10."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in pieces]


def pose_files_in(folder: Path) -> list[Path]:
    """The .json files directly inside `folder` in natural order."""
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".json" and p.is_file()]
    return sorted(files, key=lambda p: natural_key(p.name))


def read_pose_files(
    paths: list[Path],
    units: Units = "auto",
    canvas: tuple[int | None, int | None] = (None, None),
) -> tuple[PoseFrame, ...]:
    """The frames of all files in order, on one canvas where the files name none.

    Raises:
        PoseError: naming file, frame, person and part; or a file that is too large or unreadable.
    """
    if not paths:
        raise PoseError("No pose files: give at least one .json file with OpenPose keypoints.")
    labelled = [frame for path in paths for frame in labelled_frames(_text(path), path.name)]
    return assemble(labelled, units, canvas)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES >> 20} MB"
            raise PoseError(f"{path.name}: larger than {limit}. Split it into shorter sequences.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PoseError(f"{path.name}: not a JSON text file in UTF-8. Export it again.") from None
    except OSError as error:
        raise PoseError(f"{path.name}: cannot be read ({error.strerror}).") from None
