"""Lanes: the tests on other versions than those of run.py's .venv. Standard library only.

    python3 run.py tests --lane floors       the lowest versions that the pack promises
    python3 run.py tests --lane newest       the newest there are today, pre-releases of ours too
    python3 run.py tests --lane python3.X    another interpreter of this machine
    python3 run.py tests --lane windows      a Windows Python under wine (windows_python.sh)

Further arguments go to pytest. Each lane keeps an environment of its own in .lanes, about 7 GB:
delete the folder when you are done. What was last seen to pass: docs/compatibility.md.
"""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from .comfyui import find_comfyui
from .environment import NOTHING, Environment, digest
from .lock import file_lock

ROOT = Path(__file__).resolve().parent.parent
LANES = ROOT / ".lanes"
OURS = ROOT / "requirements.txt"
DEV = ROOT / "tools" / "requirements-dev.txt"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
FLOORS = ROOT / "tools" / "floors.txt"
# what needs no server; the Python under wine has no launcher to make environments with
WINE_RUNS = [f"tests/unit/{name}" for name in ("video", "conditioning", "training", "tools")]
WINE_RUNS += [f"--ignore=tests/unit/tools/test_{name}.py" for name in ("run", "lanes")]


def command_of(arguments: list[str]) -> list[str]:
    """The command that runs pytest in a lane, made ready: `arguments` are its name and pytest's.

    Raises:
        SystemExit: with a sentence, where there is no such lane or it cannot be made.
        ComfyUIError: there is no ComfyUI.
    """
    name, *rest = arguments or [""]
    if name == "windows":
        return windows(rest)
    if name not in ("floors", "newest") and not re.fullmatch(r"python3\.\d+", name):
        sys.exit(f"There is no lane {name!r}.\n\n{__doc__}")
    interpreter = sys.executable if name in ("floors", "newest") else find_python(name)
    environment = Environment(LANES / name, interpreter)
    with file_lock(LANES / f"{name}.lock"):
        environment.ensure()
        comfyui = find_comfyui(str(environment.python)) / "requirements.txt"
        files = [comfyui, OURS, DEV]
        wanted = digest([*files, CONSTRAINTS, FLOORS])
        if name == "newest":
            wanted += datetime.date.today().isoformat()  # there may be newer ones tomorrow
        if not environment.is_of(wanted):
            print("Installing about 7 GB:", environment.folder, flush=True)
            environment.install(wanted, packages(name, environment, files))
    return [str(environment.python), "-m", "pytest", *rest]


def packages(name: str, environment: Environment, files: list[Path]) -> list[str]:
    """The options of pip install that bring a lane its versions."""
    wanted = [option for file in files for option in ("-r", str(file))]
    if name == "floors":
        return ["-r", str(lowest(environment, files))]
    if name == "newest":
        return ["--upgrade", "-r", str(prereleases(environment)), *wanted]
    return [*wanted, "-c", str(CONSTRAINTS)]


def direct() -> dict[str, str]:
    """{package: specifier} of requirements.txt, as they stand there: lower bounds or nothing."""
    lines = [line.partition("#")[0].strip() for line in OURS.read_text("utf-8").splitlines()]
    return {re.split(r"[^\w.-]", line)[0]: line for line in lines if line}


def prereleases(environment: Environment) -> Path:
    """Our requirements so that pip takes pre-releases of them, and of nothing else."""
    file = environment.folder / "newest.txt"
    lines = [f"{line if '>=' in line else line + '>=0'}.dev0\n" for line in direct().values()]
    file.write_text("".join(lines), "utf-8")
    return file


def lowest(environment: Environment, files: list[Path]) -> Path:
    """Our direct dependencies at the lowest version that fits and has a wheel; all else as usual.

    uv plans it and pip installs it: pip has no lowest, and knows more places to look.
    """
    python, folder = str(environment.python), environment.folder
    subprocess.run([python, "-m", "pip", "install", "-q", "uv"], stdin=NOTHING, check=True)

    def plan(file: str, *options: object) -> Path:
        command = [python, "-m", "uv", "pip", "compile", "-q", "--python", python, "--no-header"]
        command += ["--no-annotate", "-o", str(folder / file), "-c", str(FLOORS)]
        if subprocess.call([*command, *map(str, options)], cwd=folder, stdin=NOTHING):
            sys.exit("uv found no versions that fit together; see above.")
        return folder / file

    comfyui, ours, dev = files
    low = plan(
        "lowest.txt", ours, "-c", comfyui, "--resolution=lowest-direct", "--only-binary=:all:"
    )
    own = {re.sub(r"[-_.]+", "-", name).lower() for name in direct()}
    pins = [line for line in low.read_text("utf-8").splitlines() if line.split("==")[0] in own]
    print("The lowest versions that can be had:", ", ".join(pins), flush=True)
    low.write_text("\n".join(pins), "utf-8")
    return plan("pins.txt", comfyui, ours, dev, "-c", low)


def find_python(name: str) -> str:
    """The path of an interpreter such as python3.12: our own, on PATH, of the launcher or pyenv."""
    version = name.removeprefix("python")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    commands = [[sys.executable], [name], ["py", f"-{version}"]]
    commands += [[str(p / "bin" / "python")] for p in sorted(pyenv.glob(f"{version}.*"))]
    ask = "import sys; sys.version.startswith(sys.argv[1]) and print(sys.executable)"
    for command in commands:
        try:
            probe = [*command, "-c", ask, f"{version}."]
            found = subprocess.run(probe, stdin=NOTHING, stdout=PIPE, stderr=NOTHING, text=True)
        except OSError:
            continue
        if path := found.stdout.strip():
            return path
    sys.exit(f"There is no {name} on this machine: install it, as by pyenv install {version}.")


def windows(arguments: list[str]) -> list[str]:
    """pytest under wine, one process, its output through a pipe: wine hands on nothing else."""
    folder = Path(os.environ.get("WINDOWS_PYTHON") or LANES / "windows").resolve()
    python = folder / "py311" / "python.exe"
    if not python.is_file():
        sys.exit(
            f"There is no Windows Python in {folder}. Make one (Linux, as root, 3 GB): "
            "tools/windows_python.sh FOLDER; then set WINDOWS_PYTHON=FOLDER."
        )
    native = "ucrtbase,vcruntime140,vcruntime140_1,msvcp140,vcruntime140_threads=n,b"
    os.environ |= {
        "COMFYUI_PATH": "Z:" + str(find_comfyui()).replace("/", "\\"),
        "WINEPREFIX": str(folder / "prefix"),
        "WINEDLLOVERRIDES": f"{native};mscoree,mshtml=",
        "WINEDEBUG": "-all",
        "LC_ALL": "C.UTF-8",
        "KMP_AFFINITY": "disabled",  # OpenMP asks wine for NUMA, which it has not
        "OMP_NUM_THREADS": "1",
    }
    command = ["wine", str(python), "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"]
    command += arguments or WINE_RUNS
    return ["bash", "-o", "pipefail", "-c", '"$@" </dev/null 2>&1 | cat', "wine", *command]
