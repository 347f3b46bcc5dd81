"""Find the pictures of a dataset folder, with the caption and mask that belong to each.

Layouts, which may be mixed:

    folder/picture.png + picture.txt          flat
    folder/10_zoe/...                         ten repeats of the concept "zoe" (sd-scripts)
    folder/characters/...                     one of the four categories
    folder/characters/zoe/... or 10_zoe/...   a concept inside a category, its name the trigger
    folder/regularisation/...                 what the model shall not forget; also reg/
    folder/metadata.jsonl                     captions by file name, as Hugging Face's imagefolder

A mask lies beside its picture as NAME-mask.png, NAME_mask.png, NAME.mask.png, NAME-masklabel.png
or NAME_m.png, or in a sub-folder masks/ or mask/ as NAME.png. Names are matched as `pairing` says.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .captions import CAPTION_EXTENSIONS
from .entries import Skipped, is_link, subfolders
from .errors import DatasetError
from .listing import LISTING, read_listing
from .pairing import (
    MASK_FOLDERS,
    OTHER_FOLDERS,
    aside,
    caption_rank,
    folded,
    looks_like_mask,
    mask_of,
    pair,
    plain,
    split,
)
from .records import CATEGORIES, MAX_REPEATS, Issue

MAX_FILES = 100_000
PRIOR_FOLDERS = ("regularisation", "regularization", "reg")
DEPTH = 4  # folder / category / concept / masks
LIST_DEPTH = 3  # how deep list_folders looks below a root

_REPEATS = re.compile(r"([0-9]+)_(.*\S)\s*")
_PICTURES_WE_LACK = {".heic", ".heif", ".jxl", ".psd", ".raw", ".cr2", ".nef", ".dng", ".svg"}


@dataclass(frozen=True)
class Group:
    """The folder a picture lies in and what its name says. `place` is relative, "" for the top.

    `prior` marks regularisation pictures.
    """

    place: str = ""
    category: str = ""
    concept: str = ""
    repeats: int = 1
    prior: bool = False


@dataclass(frozen=True)
class Found:
    """One picture file and its companions; `name` is its path relative to the dataset folder.

    `caption` is the text itself where it does not come from a file.
    """

    path: Path
    name: str
    group: Group
    caption: Path | str | None = None
    mask: Path | None = None


@dataclass
class Scan:
    """What lies in a dataset folder: pictures in training order, and remarks."""

    found: list[Found] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)


def natural_key(name: str) -> tuple:
    """Sort key: numbers by value ("2" before "10"), letters without regard to case."""
    text = plain(name)
    stem, extension = os.path.splitext(text.casefold())
    parts = re.split(r"([0-9]+)", stem)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(parts)), extension, text


def scan_folder(
    folder: Path, extensions: Sequence[str], allowed_roots: Iterable[Path] = ()
) -> Scan:
    """Find the pictures of a dataset; nothing is opened.

    Args:
        folder: the dataset.
        extensions: lower-case endings of pictures, with the dot.
        allowed_roots: folders that links inside the dataset may lead to, besides itself.

    Raises:
        DatasetError: the folder is missing, unreadable, or holds more than MAX_FILES files.
    """
    return _Scanner(folder, extensions, allowed_roots).run()


class _Scanner:
    def __init__(self, folder: Path, extensions: Sequence[str], allowed_roots: Iterable[Path]):
        self.folder = folder
        self.extensions = tuple(extensions)
        self.roots = [os.path.realpath(root) for root in (folder, *allowed_roots)]
        self.scan = Scan()
        self.files_seen = 0

    def run(self) -> Scan:
        if not os.path.isdir(self.folder):
            raise DatasetError(f"There is no dataset folder {self.folder.name!r}: create it.")
        try:
            self._read(self.folder, Group(), top=True)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DatasetError(
                f"{self.folder.name}: the folder is unreadable ({reason})."
            ) from None
        return self.scan

    def _note(self, place: str, severity: str, message: str) -> None:
        self.scan.issues.append(Issue(place, severity, message))

    def _read(
        self, folder: Path, group: Group, top: bool = False, given: dict[str, str] | None = None
    ) -> None:
        texts = dict(given or {})
        files, folders = self._entries(folder, group.place)
        texts |= self._listed(folder, files, group.place)
        self._take_pictures(folder, files, folders, group, texts)
        inside = [name for name in folders if name.lower() not in MASK_FOLDERS]
        listed = pair(map(plain, folders), (k.split("/")[0] for k in texts if "/" in k))
        order = list(CATEGORIES)
        inside.sort(key=lambda n: order.index(n.lower()) if n.lower() in order else len(order))
        for name in inside:
            place = f"{group.place}{name}/"
            start = listed.get(plain(name), name) + "/"
            below = {k[len(start) :]: t for k, t in texts.items() if k.startswith(start)}
            child = self._child(group, name, place, top, bool(below))
            if child is not None:
                try:
                    self._read(folder / name, child, given=below)
                except OSError as error:
                    self._note(place, "error", f"the folder is unreadable ({error.strerror})")

    def _child(self, group: Group, name: str, place: str, top: bool, listed: bool) -> Group | None:
        if name.lower() in OTHER_FOLDERS:
            message = "not read: such folders hold no training pictures; masks belong in masks/"
            self._note(place, "warning", message)
            return None
        if top and name.lower() in CATEGORIES:
            return Group(place, name.lower())
        if top and name.lower() in PRIOR_FOLDERS:
            return Group(place, prior=True)
        match = _REPEATS.fullmatch(name)
        in_category = bool(group.category or group.prior) and not group.concept
        if match and (top or in_category):
            repeats = int(match[1][:9])
            if not 1 <= repeats <= MAX_REPEATS:
                self._note(
                    place,
                    "warning" if repeats == 0 else "error",
                    f"{repeats} repeats: its pictures are left out; "
                    f"rename it to a number from 1 to {MAX_REPEATS}, an underscore and a name",
                )
                return None
            return Group(place, group.category, match[2].strip(), repeats, group.prior)
        if in_category:
            return Group(place, group.category, name, prior=group.prior)
        if listed:  # metadata.jsonl names pictures in it
            return replace(group, place=place)
        names = ", ".join(CATEGORIES)
        self._note(
            place,
            "warning",
            f"this folder is not read: move the pictures up, or name it 1_NAME or one of {names}"
            if top
            else "this folder is too deep and not read: move its pictures up",
        )
        return None

    def _entries(self, folder: Path, place: str) -> tuple[list[str], list[str]]:
        """Names of files and sub-folders in natural order, without hidden and refused ones."""
        files, folders = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                self.files_seen += 1
                if self.files_seen > MAX_FILES:
                    raise DatasetError(
                        f"{self.folder.name} holds more than {MAX_FILES} files: split it."
                    )
                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(entry.name)
                elif kind == "file":
                    files.append(entry.name)
                else:
                    self._note(place + entry.name, "error", kind)
        return sorted(files, key=natural_key), sorted(folders, key=natural_key)

    def _kind(self, entry: os.DirEntry) -> str:
        """ "folder", "file", or why an entry is not read."""
        try:
            if is_link(entry):
                target = os.path.realpath(entry.path)
                if not os.path.exists(target):
                    return "the link leads nowhere: copy the file here"
                if not any(_within(root, target) for root in self.roots):
                    return "the link leads out of the dataset folder: copy the file here"
            if entry.is_dir():
                return "folder"
            # a named pipe would make its reader wait for ever
            return "file" if entry.is_file() else "not a regular file: take it out"
        except OSError as error:
            return f"it cannot be looked at ({error.strerror or error})"

    def _listed(self, folder: Path, files: list[str], place: str) -> dict[str, str]:
        """Captions by file name from metadata.jsonl, if there is one."""
        names = [name for name in files if name.lower() == LISTING]
        if not names:
            return {}
        texts, problems = read_listing(folder / names[0])
        for number, message in problems:
            line = f" line {number}" if number else ""
            self._note(f"{place}{names[0]}{line}", "warning", message)
        return {plain(name): text for name, text in texts.items()}

    def _take_pictures(
        self,
        folder: Path,
        files: list[str],
        folders: list[str],
        group: Group,
        texts: dict[str, str],
    ) -> None:
        pictures, captions, masks = self._sort_out(folder, files, group.place)
        for name in folders:
            if name.lower() in MASK_FOLDERS:
                for file in self._entries(folder / name, f"{group.place}{name}/")[0]:
                    if split(file)[1] in self.extensions:
                        masks.setdefault(split(file)[0], folder / name / file)
        captioned, masked = pair(pictures, captions), pair(pictures, masks)
        listed = pair((plain(n) for names in pictures.values() for n in names), texts)
        self._note_same(group.place, pictures)
        self._note_leftovers(group.place, captioned, captions, masked, masks)
        self._note_missing(group.place, listed, folders, texts)
        for stem, names in pictures.items():
            caption = min(captions.get(captioned.get(stem, ""), [""]), key=caption_rank)
            for name in names:
                self.scan.found.append(
                    Found(
                        folder / name,
                        group.place + name,
                        group,
                        folder / caption if caption else texts.get(listed.get(plain(name), "")),
                        masks.get(masked.get(stem, "")),
                    )
                )

    def _sort_out(self, folder: Path, files: list[str], place: str) -> tuple[dict, dict, dict]:
        """(pictures, captions, masks) of a folder by stem: names, names and paths."""
        pictures: dict[str, list[str]] = {}
        captions: dict[str, list[str]] = {}
        masks: dict[str, Path] = {}
        for name in files:
            stem, extension = split(name)
            if extension in CAPTION_EXTENSIONS:
                captions.setdefault(stem, []).append(name)
            elif extension in self.extensions:
                pictures.setdefault(stem, []).append(name)
            else:
                self._note_other(place + name, extension)
        known, written = {folded(s) for s in pictures}, {folded(s) for s in captions}
        for stem in list(pictures):
            owner = mask_of(stem, known, folded(stem) in written)
            if owner:
                for name in pictures.pop(stem):
                    if masks.setdefault(owner, folder / name) != folder / name:
                        used = f"not used: {masks[owner].name} is the mask"
                        self._note(place + name, "warning", used)
            elif aside(stem, known):
                for name in pictures.pop(stem):
                    message = "left out: made from another picture, and none to learn from"
                    self._note(place + name, "hint", message)
        for stem in [s for s in pictures if looks_like_mask(s) and folded(s) not in written]:
            if masks:  # others are masks here, so this one has lost its picture
                masks[stem] = folder / pictures.pop(stem)[0]
                continue
            message = "read as a picture, though its name ends as that of a mask: rename it"
            self._note(place + pictures[stem][0], "warning", message)
        return pictures, captions, masks

    def _note_same(self, place: str, pictures: dict[str, list[str]]) -> None:
        first_of: dict[str, str] = {}
        for stem, names in pictures.items():
            first = first_of.setdefault(folded(stem), stem)
            for name in names if first != stem else names[1:]:
                self._note(
                    place + name,
                    "warning",
                    f"shares its name with {names[0]}: rename one, they get the same caption"
                    if first == stem
                    else f"its name is that of {pictures[first][0]} in other letter case: rename "
                    "one, since most systems take them for one",
                )

    def _note_leftovers(
        self, place: str, captioned: dict, captions: dict, masked: dict, masks: dict
    ) -> None:
        used = {folded(stem): stem for stem in captioned.values()}
        for stem, names in captions.items():
            kept, *others = sorted(names, key=caption_rank)
            if folded(stem) not in used:
                self._note(place + names[0], "warning", "a caption without a picture of its name")
                continue
            if used[folded(stem)] != stem and stem not in captioned.values():
                others, kept = names, min(captions[used[folded(stem)]], key=caption_rank)
            for name in others:
                self._note(place + name, "warning", f"not used: {kept} is the caption")
        for stem in sorted(set(masks) - set(masked.values())):
            self._note(place + masks[stem].name, "warning", "a mask without a picture of its name")

    def _note_missing(self, place: str, listed: dict, folders: list[str], texts: dict) -> None:
        known = {folded(name) for name in folders}  # what lies below is looked for there
        for name in sorted(set(texts) - set(listed.values())):
            first, below, _ = name.partition("/")
            if not below or folded(first) not in known:
                self._note(place + name, "warning", f"{LISTING} names it, but it is not there")

    def _note_other(self, name: str, extension: str) -> None:
        if extension in _PICTURES_WE_LACK:
            self._note(name, "warning", "this format is not read: save the picture as PNG or JPEG")


def fingerprint(folder: Path) -> str:
    """sha256 over names, sizes and times of all files a scan of `folder` could look at."""
    lines = []
    for path, info in _walk(folder, DEPTH):
        lines.append(f"{path.relative_to(folder).as_posix()}\0{info.st_size}\0{info.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def list_folders(
    root: Path, extensions: Sequence[str], skipped: Skipped = lambda name, why: None
) -> list[str]:
    """Names, relative to `root`, of the folders that look like datasets, in natural order.

    A dataset's own category, repeat and mask folders are not listed beside it.

    Args:
        skipped: told what is passed over and why; nothing below `root` is ever an error.
    """
    names: list[str] = []

    def visit(folder: Path, place: str, depth: int) -> None:
        entries, folders = subfolders(folder, place, skipped)
        parts = [n for n in folders if _is_part(n)]
        if place and (parts or any(split(e.name)[1] in extensions for e in entries)):
            names.append(place)
        if depth:
            for name in sorted(set(folders) - set(parts), key=natural_key):
                visit(folder / name, f"{place}/{name}" if place else name, depth - 1)

    if os.path.isdir(root):
        visit(root, "", LIST_DEPTH)
    return names


def _is_part(name: str) -> bool:
    known = name.lower() in (*CATEGORIES, *PRIOR_FOLDERS, *MASK_FOLDERS)
    return known or _REPEATS.fullmatch(name) is not None


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        yield Path(entry.path), entry.stat()
                    elif depth > 1:
                        yield from _walk(Path(entry.path), depth - 1)
                except OSError:  # a broken link: a scan reports it
                    continue
    except OSError:
        return


def _within(root: str, target: str) -> bool:
    try:
        return os.path.commonpath((root, target)) == root
    except ValueError:  # another drive
        return False
