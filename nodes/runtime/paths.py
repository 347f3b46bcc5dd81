"""Every string that becomes a path passes through here, and none leaves its root.

Slashes of either kind are read on every system, since workflows travel; '/' is what we write. What
becomes the name of a file must be one on every system, too; files that are there may have any.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths

from ... import training, video
from ...training import remove_all_left, unwritable_path
from .prefixes import with_values, without_variables


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
        for spelling in dict.fromkeys((name, with_slashes(name))):
            target = inside(root, spelling, what)
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


def with_slashes(name: str) -> str:
    """A name that may have been typed on Windows, with '/'."""
    return name.replace("\\", "/")


def check_prefix(filename_prefix: str | None, base: str | Path | None = None) -> bool | str:
    """For validate_inputs: True, or what is wrong with a typed prefix (None: it is linked).

    Args:
        base: a folder inside ComfyUI's output directory, by default that directory itself.
    """
    try:
        if filename_prefix is not None:
            _writable(without_variables(filename_prefix), filename_prefix, base)
    except PathError as error:
        return str(error)
    return True


def save_location(
    filename_prefix: str,
    hidden: Any = None,
    base: str | Path | None = None,
    size: tuple[int, int] = (0, 0),
) -> tuple[Path, str, int, str]:
    """(folder, file stem, counter, subfolder relative to output) for a new file below `base`.

    What killed processes left under such names is removed.

    Args:
        filename_prefix: may hold slashes for subfolders and the variables of core's Save Image.
        hidden: the node's hidden inputs, from which variables are filled in.
        base: a folder inside ComfyUI's output directory, by default that directory itself.
        size: pixels, for %width% and %height%.

    Raises:
        PathError: the name leads elsewhere, or cannot be one on every system.
    """
    root = str(base or folder_paths.get_output_directory())
    prefix = _writable(with_values(filename_prefix or "", hidden), filename_prefix, base)
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(prefix, root, *size)
    remove_all_left(Path(folder), stem)
    subfolder = os.path.relpath(folder, folder_paths.get_output_directory()).replace(os.sep, "/")
    return Path(folder), stem, counter, "" if subfolder == "." else subfolder


def save_numbered(
    write: Callable[[Path], None], folder: Path, stem: str, counter: int, ending: str
) -> str:
    """The name of a new file STEM_00001_ENDING; the next number where another process has it.

    Args:
        write: writes the file, or raises NameTaken at once; see `whole_file`.

    Raises:
        PathError: the disk refuses; says why.
    """
    while True:
        name = f"{stem}_{counter:05}_{ending}"
        try:
            write(folder / name)
        except (training.NameTaken, video.NameTaken):
            counter += 1
        except OSError as error:
            raise PathError(f"{name} cannot be written ({training.in_words(error)}).") from error
        else:
            return name


def _writable(prefix: str, typed: str, base: str | Path | None) -> str:
    """The prefix with '/', if files can have this name below `base`."""
    what = "filename_prefix"
    name = with_slashes(_checked(prefix, what))
    inside(base or folder_paths.get_output_directory(), name, what)
    if reason := unwritable_path(name):
        raise PathError(f"{what} {typed!r}: the name {reason}. Choose another.")
    return name
