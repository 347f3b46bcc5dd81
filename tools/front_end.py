"""Another front end than the one that ComfyUI's requirements name: TROUPE_FRONT_END.

It is a folder that holds index.html, or "newest": then the newest comfyui-frontend-package is
fetched and kept in the cache, outside of any environment. `TROUPE_FRONT_END=newest python3 run.py
tests tests/browser` runs the tests of the page with it.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .comfyui import ComfyUIError, cache_dir
from .lock import file_lock

logger = logging.getLogger(__name__)

VARIABLE = "TROUPE_FRONT_END"
NEWEST = "newest"
PACKAGE = "comfyui-frontend-package"
STATIC = Path("comfyui_frontend_package") / "static"


def find_front_end(given: str | None = None) -> Path | None:
    """The folder for ComfyUI's --front-end-root; None where the usual one shall be served.

    Args:
        given: a folder or "newest"; by default what TROUPE_FRONT_END says.

    Raises:
        ComfyUIError: the folder holds no front end, or the newest cannot be had.
    """
    value = os.environ.get(VARIABLE, "").strip() if given is None else given
    if not value:
        return None
    folder = _newest() if value == NEWEST else Path(value).expanduser().resolve()
    if not (folder / "index.html").is_file():
        raise ComfyUIError(
            f"{VARIABLE}={value} is no front end: {folder} holds no index.html. Name the folder "
            f"static of an unpacked {PACKAGE}, or 'newest'."
        )
    return folder


def _newest() -> Path:
    cache = cache_dir() / "front-ends"
    with file_lock(cache.with_name("front-ends.lock")):
        cache.mkdir(exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=cache, prefix="new-"))
        try:
            wheel = _download(scratch)
            target = cache / wheel.name.split("-")[1]
            if not target.exists():
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(scratch / "unpacked")
                os.replace(scratch / "unpacked", target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target / STATIC


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), PACKAGE]
    logger.info("Looking for the newest front end ...")
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise ComfyUIError(f"pip could not download {PACKAGE}. pip said:\n{last}")
    return wheels[0]
