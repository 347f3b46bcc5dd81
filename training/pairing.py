"""Which files belong together by their names: pictures, captions, masks, lines of a listing.

Names are compared as NFC, exactly first and then without regard to case, on every system: a
folder that was made on Windows or macOS is read the same everywhere.
"""

import os
import re
import unicodedata
from collections.abc import Iterable

from .captions import CAPTION_EXTENSIONS

MASK_SUFFIX = "-masklabel"  # never the end of a picture's own name
MASK_FOLDERS = ("masks", "mask")
# folders of other programs that hold no training pictures either
OTHER_FOLDERS = ("conditioning", "conditioning_data", "conditioning_images", "control", "controls")
OTHER_FOLDERS += ("_controls", "control_images", "preview", "previews", "thumbnails", "thumbs")

_MASK = re.compile(r"(.+?)([-_.]mask|-masklabel|_m)", re.IGNORECASE | re.DOTALL)
_ASIDE = re.compile(r"(.+?)(-condlabel|[-_.]preview|[-_.]thumb)", re.IGNORECASE | re.DOTALL)


def split(name: str) -> tuple[str, str]:
    """(stem as NFC, lower-case extension) of a file name."""
    stem, extension = os.path.splitext(name)
    return plain(stem), extension.lower()


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """What names that differ in case only have in common."""
    return plain(name.casefold())


def pair(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Name -> its partner: the same name, else one that differs in case and is nobody's own."""
    names, others = set(names), set(others)
    loose: dict[str, str] = {}
    for other in sorted(others - names):
        loose.setdefault(folded(other), other)
    same = {name: name for name in names & others}
    return same | {n: loose[folded(n)] for n in names - others if folded(n) in loose}


def mask_of(stem: str, pictures: set[str], captioned: bool) -> str | None:
    """Name of the picture that `stem` is the mask of, None if it is no mask.

    Args:
        stem: name of a file, without extension.
        pictures: `folded` names of all pictures of its folder.
        captioned: it has a caption of its own, as pictures have.
    """
    match = _MASK.fullmatch(stem)
    if not match:
        return None
    suffix = match[2].lower()
    if suffix == MASK_SUFFIX:
        return match[1]
    if folded(match[1]) not in pictures or (suffix == "_m" and captioned):
        return None
    return match[1]


def looks_like_mask(stem: str) -> bool:
    """Whether a name ends as those of masks do, beyond a mere _m."""
    match = _MASK.fullmatch(stem)
    return match is not None and match[2].lower() != "_m"


def aside(stem: str, pictures: set[str]) -> bool:
    """Whether a file is made from a picture and is none to learn from: see `mask_of`."""
    match = _ASIDE.fullmatch(stem)
    if not match:
        return False
    return match[2].lower() == "-condlabel" or folded(match[1]) in pictures


def caption_rank(name: str) -> tuple[int, str]:
    """Sort key: which of several caption files of a picture counts."""
    extension = split(name)[1]
    known = extension in CAPTION_EXTENSIONS
    return (CAPTION_EXTENSIONS.index(extension) if known else len(CAPTION_EXTENSIONS)), name
