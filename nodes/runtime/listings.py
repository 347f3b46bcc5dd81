"""What the widgets list. A schema is made while ComfyUI loads the pack, so nothing here raises:
one odd entry in a folder would take all nodes away."""

import logging
import os
from collections.abc import Iterator
from functools import cache

import folder_paths

from ...training.entries import is_text, printable

log = logging.getLogger(__name__)


@cache  # the page asks for every list again and again
def warn_once(message: str) -> None:
    log.warning(message)


def model_files(kind: str) -> list[str]:
    """Model files of a kind as core lists them, in its order.

    Core gives up where a folder may not be entered; then the files of all others are listed.
    """
    try:
        names = folder_paths.get_filename_list(kind)
    except OSError as error:
        what = printable(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        warn_once(f"models/{kind} cannot be listed whole ({what}): mend or remove that entry.")
        roots, endings = folder_paths.folder_names_and_paths[folder_paths.map_legacy(kind)]
        found = {name for root in roots for name in files_below(root, 8, links=True)}
        names = sorted(folder_paths.filter_files_extensions(found, endings))
    return only_text(names, f"models/{kind}")


def only_text(names: list[str], place: str) -> list[str]:
    """The names that a page can hold; the others are named in the log."""
    for name in names:
        if not is_text(name):
            warn_once(f"{place}/{printable(name)} is not listed: its name is not UTF-8; rename it.")
    return [name for name in names if is_text(name)]


def files_below(root: str, depth: int, links: bool = False) -> Iterator[str]:
    """Names of files relative to `root`, so many folders deep; what cannot be read is left out."""
    for folder, subfolders, names in os.walk(root, followlinks=links):
        subfolders.sort()
        place = os.path.relpath(folder, root)
        yield from (os.path.normpath(os.path.join(place, name)) for name in sorted(names))
        if depth <= (0 if place == "." else place.count(os.sep) + 1):
            subfolders.clear()
