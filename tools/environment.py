"""A virtual environment that follows requirement files. Standard library only, as run.py is."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

NOTHING = subprocess.DEVNULL


class Environment:
    """The folder of an environment, made when first wanted and renewed where it is unsound."""

    def __init__(self, folder: Path, interpreter: str = sys.executable):
        self.folder = folder
        self.interpreter = interpreter
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        # written last: its presence says the install went through
        self._stamp = folder / "troupe-requirements"
        # there while pip works: what it left is not to be trusted
        self._unfinished = folder / "troupe-unfinished"

    def ensure(self) -> None:
        """Make it, unless it is there and works."""
        if self._unfinished.exists() or not works(self.python):
            self._make()

    def is_of(self, wanted: str) -> bool:
        """Whether the last `install` was that of `wanted`."""
        return self._stamp.exists() and self._stamp.read_text("ascii") == wanted

    def install(self, wanted: str, options: Iterable[str]) -> None:
        """Give `options` to pip install; `wanted` is what `is_of` knows it by."""
        self._unfinished.touch()
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        failed = subprocess.call([*command, *options], stdin=NOTHING)
        self._unfinished.unlink()  # pip undoes its own failures; only a killed pip leaves the mark
        if failed:
            sys.exit("pip could not install the requirements; see above. Then run it again.")
        self._stamp.write_text(wanted, "ascii")

    def _make(self) -> None:
        if Path(sys.prefix).resolve() == self.folder:
            sys.exit("The environment must be made anew: run this with a Python outside of it.")
        if self.interpreter == sys.executable:
            _require_venv()
        print("Making the environment", self.folder, flush=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        if subprocess.call([self.interpreter, "-m", "venv", str(self.folder)], stdin=NOTHING):
            sys.exit(f"{self.interpreter} could not make an environment; see above.")


def works(python: Path) -> bool:
    """Whether this interpreter starts and has pip; a moved or half-made environment does not."""
    try:
        probe = [str(python), "-c", "import pip"]
        return subprocess.call(probe, cwd=python.anchor, stdin=NOTHING, stderr=NOTHING) == 0
    except OSError:
        return False


def _require_venv() -> None:
    try:
        import ensurepip  # noqa: F401 - Debian ships venv without it, and then venv fails late
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            "This Python lacks the venv module. Install it (Debian, Ubuntu: apt install "
            "python3-venv; Fedora: dnf install python3-pip) or use Python from python.org."
        )


def digest(files: Iterable[Path]) -> str:
    """Stands for the content of these files."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
        total.update(b"\0")
    return total.hexdigest()
