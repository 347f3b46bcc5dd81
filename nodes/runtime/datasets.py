"""What the dataset nodes share: folders by name, the progress bar, what is shown at the end."""

import os
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ...training import setting
from ...training.buckets import count_buckets, losses, plan_buckets
from ...training.dataset import Dataset
from ...training.folders import list_folders
from ...training.records import EXTENSIONS
from ...training.sheet import contact_sheet
from .listings import warn_once
from .paths import PathError, dataset_roots, find_below

IN_DATASETS = " [datasets]"  # marks a name that lies in input/ as well


def folder_names() -> list[str]:
    """Dataset folders as the widgets list them."""
    first, *others = (Path(root) for root in dataset_roots())
    names = _listed(first)
    for root in others:
        names += [
            name + IN_DATASETS if os.path.exists(first / name) else name for name in _listed(root)
        ]
    return list(dict.fromkeys(names))


def _listed(root: Path) -> list[str]:
    def skipped(name: str, why: str) -> None:
        warn_once(f"{root.name}/{name} is not listed: {why}.")

    return list_folders(root, EXTENSIONS, skipped)


def find_folder(name: str) -> Path:
    """The folder that a widget's value names.

    Raises:
        PathError: it leads elsewhere, or does not exist.
    """
    roots = dataset_roots()
    if name.endswith(IN_DATASETS):
        name, roots = name.removesuffix(IN_DATASETS), roots[1:]
    path = find_below(roots, name, "dataset folder")
    if not path.is_dir():
        raise PathError(f"dataset folder {name!r} is a file: name the folder that holds it.")
    return path


def progress_callback() -> Callable[[int, int], None]:
    """A callback that moves the node's bar and raises when the user interrupts."""
    bar = comfy.utils.ProgressBar(1)

    def update(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return update


def dataset_result(dataset: Dataset, resolution: int) -> io.NodeOutput:
    """The outputs of a dataset node, with contact sheet and report shown on it."""
    placements = plan_buckets(dataset.items, resolution, setting("buckets.step").default)
    buckets = ", ".join(f"{w}x{h}: {n}" for (w, h), n in count_buckets(placements).items())
    lines = [dataset.report(), f"  buckets at {resolution} px: {buckets}"]
    report = "\n".join([*lines, *(f"  {line}" for line in losses(placements))])
    sheet = _as_image(contact_sheet(dataset, placements))
    shown = {**ui.PreviewImage(sheet).as_dict(), "text": [report]}
    return io.NodeOutput(dataset, sheet, report, ui=shown)


def contact_sheet_of(dataset: Dataset, resolution: int) -> torch.Tensor:
    """(1, H, W, 3) in [0, 1]: the dataset's thumbnails as it is trained at `resolution`."""
    placements = plan_buckets(dataset.items, resolution, setting("buckets.step").default)
    return _as_image(contact_sheet(dataset, placements))


def _as_image(sheet: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(sheet).to(torch.float32)[None] / 255.0
