"""Every string that becomes a path passes through here, and none leaves its root."""

import os
from pathlib import Path

import folder_paths


class PathError(ValueError):
    """A name given by the user does not name a place we may read or write."""


def _checked(name: str, what: str) -> str:
    text = (name or "").strip()
    if not text:
        raise PathError(f"{what} is empty: give a name relative to ComfyUI's folders.")
    windows_drive = len(text) > 1 and text[1] == ":"
    if "\0" in text or windows_drive or os.path.isabs(text) or text.startswith(("/", "\\")):
        raise PathError(f"{what} {name!r} must be a relative name: no drive, no leading slash.")
    if ".." in text.replace("\\", "/").split("/"):
        raise PathError(f"{what} {name!r} must not contain '..'.")
    return text


def inside(root: str | os.PathLike, name: str, what: str) -> Path:
    """The absolute path of `name` below `root`; links that lead out of it are refused.

    Raises:
        PathError: `name` is empty, absolute, holds '..' or NUL, or resolves outside `root`.
    """
    target = os.path.abspath(os.path.join(root, _checked(name, what)))
    if not folder_paths.is_within_directory(str(root), target):
        raise PathError(f"{what} {name!r} leads outside of {os.path.basename(str(root))!r}.")
    return Path(target)


def find_below(roots: list[str], name: str, what: str) -> Path:
    """The first existing file or folder `name` below one of `roots`.

    Raises:
        PathError: as `inside`, or nothing of that name exists in any root.
    """
    for root in roots:
        target = inside(root, name, what)
        if target.exists():
            return target
    places = ", ".join(os.path.basename(os.path.normpath(r)) + "/" for r in roots)
    raise PathError(f"{what} {name!r} was not found; put it in one of: {places}.")


def dataset_roots() -> list[str]:
    """Where dataset folders may lie: ComfyUI's input folder, then every `datasets` root."""
    return [folder_paths.get_input_directory(), *folder_paths.get_folder_paths("datasets")]


def input_file(name: str, what: str) -> Path:
    """A file below ComfyUI's input folder, or output/temp with the suffix '[output]' / '[temp]'."""
    text, base = folder_paths.annotated_filepath(_checked(name, what))
    path = inside(base or folder_paths.get_input_directory(), text, what)
    if not path.is_file():
        raise PathError(f"{what} {name!r} does not exist in ComfyUI's input folder.")
    return path


def save_location(
    filename_prefix: str, what: str, base: str | None = None
) -> tuple[Path, str, int, str]:
    """(folder, file stem, counter, subfolder relative to output) for a new file below `base`.

    `base` is a folder inside ComfyUI's output directory, by default that directory itself.
    The prefix may hold '/' for subfolders and core's %date% style variables.
    """
    root = base or folder_paths.get_output_directory()
    inside(root, filename_prefix, what)
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
    subfolder = os.path.relpath(folder, folder_paths.get_output_directory()).replace(os.sep, "/")
    return Path(folder), stem, counter, "" if subfolder == "." else subfolder
