"""The inputs of the example workflows: photographs as shipped, keypoints drawn for a canvas size.

`python -m demo.inputs` writes the shipped keypoint files again (canvas 1024).
"""

import os
import shutil
from pathlib import Path

from .cast import write_dances
from .dance import keypoint_frames, write_frames

SHIPPED = Path(__file__).resolve().parent.parent / "workflows" / "input"
SHIPPED_CANVAS = 1024
DANCE_FRAMES = 16


def write_poses(folder: Path, canvas: int, frames: int = DANCE_FRAMES) -> None:
    """One pose and two dances on a square canvas of `canvas` pixels.

    The workflows take their picture size from this canvas, so the same file makes a film of
    1024 pixels with SDXL and one of 256 with a miniature.
    """
    write_frames(folder / "troupe_pose.json", keypoint_frames(1, canvas, start=0.13))
    write_frames(folder / "troupe_dance.json", keypoint_frames(frames, canvas))
    close = keypoint_frames(frames, canvas, scale=1.35, floor=1.32, start=0.5)
    write_frames(folder / "troupe_dance_close.json", close)


def place_inputs(input_dir: Path, canvas: int, frames: int = DANCE_FRAMES) -> None:
    """Fill a ComfyUI input folder with everything that the example workflows read."""
    shutil.copytree(
        SHIPPED, input_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", "*.json")
    )
    write_poses(input_dir, canvas, frames)
    write_dances(input_dir, frames)


def place_missing(input_dir: Path) -> None:
    """Copy the shipped inputs to a ComfyUI input folder; files that are there are kept."""
    for source in SHIPPED.rglob("*"):
        target = input_dir / source.relative_to(SHIPPED)
        if source.is_file() and source != SHIPPED / "README.md" and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            shutil.copyfile(source, part)
            os.replace(part, target)


if __name__ == "__main__":
    write_poses(SHIPPED, SHIPPED_CANVAS)
