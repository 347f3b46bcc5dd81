"""One command for everything: makes the environment it needs, then runs the real tool inside it.

    python3 run.py demo               train, compose and film with a miniature model: output/demo
    python3 run.py tests [...]        all tests (arguments go to pytest); on other versions of
                                      Python and packages with --lane NAME: see tools/lanes.py
    python3 run.py serve [...]        ComfyUI with this pack, for a browser (arguments go to it)
    python3 run.py bench AREA [...]   benchmarks; --json FILE keeps the rows
    python3 run.py lint [...]         ruff

The environment is the folder .venv beside this file, about 7 GB with ComfyUI's requirements. It is
made on first use and updated when a requirement file changes. ComfyUI itself is the one that
COMFYUI_PATH names, else a pinned release that is fetched once.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
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
    from tools.lanes import command_of

    try:
        if arguments[:2] == ["tests", "--lane"]:
            return run(command_of(arguments[2:]))
        return run([str(prepare()), *COMMANDS[arguments[0]], *arguments[1:]])
    except ComfyUIError as error:
        sys.exit(str(error))


def prepare():
    """Make or update .venv, unless it matches the requirement files already; its Python."""
    from tools.comfyui import find_comfyui
    from tools.environment import Environment, digest
    from tools.lock import file_lock

    environment = Environment(ROOT / ".venv")
    with file_lock(ROOT / ".venv.lock"):
        environment.ensure()
        comfyui = find_comfyui(str(environment.python))
        files = [comfyui / "requirements.txt", ROOT / "requirements.txt"]
        files.append(ROOT / "tools" / "requirements-dev.txt")
        wanted = digest([*files, CONSTRAINTS])
        if not environment.is_of(wanted):
            print("Installing the requirements of ComfyUI and Troupe, about 7 GB:", flush=True)
            options = [option for file in files for option in ("-r", str(file))]
            environment.install(wanted, [*options, "-c", str(CONSTRAINTS)])
    return environment.python


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
