"""From a folder, or a list of pictures, to a Dataset."""

from pathlib import Path

from .errors import DatasetError
from .records import CATEGORIES, CategorySettings, Dataset, DatasetItem, DatasetSettings, Issue

__all__ = [
    "CATEGORIES",
    "CategorySettings",
    "Dataset",
    "DatasetItem",
    "DatasetSettings",
    "Issue",
    "open_dataset",
    "read_dataset",
]


def open_dataset(settings: DatasetSettings) -> Dataset:
    """The dataset that settings describe: their items, or their folder read now.

    Raises:
        DatasetError: neither is given, or see `read_dataset`.
    """
    if settings.items:
        return Dataset(settings.items, (), settings.name or "dataset")
    if not settings.folder:
        raise DatasetError("No dataset: give dataset.folder (a folder with pictures).")
    return read_dataset(Path(settings.folder), settings)


def read_dataset(
    folder: Path,
    settings: DatasetSettings | None = None,
    *,
    resolution: int = 1024,
    allowed_roots: tuple[Path, ...] = (),
) -> Dataset:
    """Read a dataset folder (being written: the final signature)."""
    raise NotImplementedError
