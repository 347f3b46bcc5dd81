"""One command for everything: makes the environment it needs, then runs the real tool inside it.

    python3 run.py demo               train, compose and film with a miniature model: output/demo
    python3 run.py tests [...]        all tests (arguments go to pytest)
    python3 run.py serve [...]        ComfyUI with this pack, for a browser (arguments go to it)
    python3 run.py bench AREA [...]   benchmarks; --json FILE keeps the rows
    python3 run.py lint [...]         ruff

The environment is the folder .venv beside this file, about 7 GB with ComfyUI's requirements. It is
made on first use and updated when a requirement file changes. ComfyUI itself is the one that
COMFYUI_PATH names, else a pinned release that is fetched once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "troupe-requirements"  # written last: its presence says the install went through
UNFINISHED = VENV / "troupe-unfinished"  # there while pip works: what it left is not to be trusted
CONSTRAINTS = ROOT / "tools" / "constraints.txt"

COMMANDS = {
    "demo": ["-m", "demo"],
    "tests": ["-m", "pytest"],
    "serve": ["-m", "tools.server"],
    "bench": ["-m", "bench"],
    "lint": ["-m", "ruff", "check", "."],
}


def main(arguments):
    if sys.version_info < (3, 10):  # noqa: UP036 - a sentence instead of a traceback
        sys.exit("Python 3.10 or newer is needed; this is {}.{}.".format(*sys.version_info[:2]))
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may not be in the code page
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    from tools.comfyui import ComfyUIError
    from tools.lock import file_lock

    try:
        with file_lock(ROOT / ".venv.lock"):
            prepare()
    except ComfyUIError as error:
        sys.exit(str(error))
    return run([str(PYTHON), *COMMANDS[arguments[0]], *arguments[1:]])


def prepare():
    """Make or update the environment, unless it already matches the requirement files."""
    from tools.comfyui import find_comfyui

    if UNFINISHED.exists() or not works(PYTHON):
        make_environment()
    comfyui = find_comfyui(str(PYTHON))
    files = [comfyui / "requirements.txt", ROOT / "requirements.txt"]
    files.append(ROOT / "tools" / "requirements-dev.txt")
    wanted = digest([*files, CONSTRAINTS])
    if STAMP.exists() and STAMP.read_text("ascii") == wanted:
        return
    print("Installing the requirements of ComfyUI and Troupe, about 7 GB:", VENV, flush=True)
    UNFINISHED.touch()
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    for file in files:
        command += ["-r", str(file)]
    failed = subprocess.call([*command, "-c", str(CONSTRAINTS)], stdin=subprocess.DEVNULL)
    UNFINISHED.unlink()  # pip undoes its own failures; only a killed pip leaves the mark
    if failed:
        sys.exit("pip could not install the requirements; see above. Then run the command again.")
    STAMP.write_text(wanted, "ascii")


def works(python):
    """Whether this interpreter starts and has pip; a moved or half-made environment does not."""
    try:
        probe = [str(python), "-c", "import pip"]
        nothing = subprocess.DEVNULL
        return subprocess.call(probe, cwd=ROOT.anchor, stdin=nothing, stderr=nothing) == 0
    except OSError:
        return False


def make_environment():
    if Path(sys.prefix).resolve() == VENV:
        sys.exit("The environment must be made anew: run this with a Python outside of .venv.")
    try:
        import ensurepip  # noqa: F401 - Debian ships venv without it, and then venv fails late
        import venv
    except ImportError:
        sys.exit(
            "This Python lacks the venv module. Install it (Debian, Ubuntu: apt install "
            "python3-venv; Fedora: dnf install python3-pip) or use Python from python.org."
        )
    print("Making the environment", VENV, flush=True)
    if VENV.exists():
        shutil.rmtree(VENV)
    venv.create(VENV, with_pip=True, symlinks=os.name != "nt")


def digest(files):
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
        total.update(b"\0")
    return total.hexdigest()


def run(command):
    """Run in the foreground; its exit code. Ctrl-C reaches the tool too: let it end in its way."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=None)  # for pytest --pdb
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
