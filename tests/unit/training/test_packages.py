"""Broken and missing packages: real ones in the way of real imports, in processes of their own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Python runs this first: `import NAME` and find_spec take the package for one that is not there.
MISSING = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {names!r}:
            return super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def put(folder: Path, name: str, source: str, version: str = "") -> None:
    """A package that lies in the way of the installed one of its name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(textwrap.dedent(source), "utf-8")
    if version:
        about = folder / f"{name}-{version}.dist-info"
        about.mkdir()
        lines = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (about / "METADATA").write_text(lines, "utf-8")
        (about / "RECORD").write_text(f"{name}/__init__.py,,\n", "utf-8")
        (about / "top_level.txt").write_text(f"{name}\n", "utf-8")


def hide(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(MISSING.format(names=set(names)), "utf-8")


@pytest.fixture
def python(tmp_path):
    """python(*arguments): the finished process, with what lies in tmp_path/site before all else."""

    def run(*arguments) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )

    return run


def reason(python, package: str) -> str:
    """What is told when one of our functions imports a package and fails."""
    script = f"""if True:
        from training.packages import why_not
        def ours():
            import {package}
        try:
            ours()
        except Exception as error:
            print(why_not(error))
        """
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BROKEN = {
    "error without a name": ("raise ImportError('half of it is gone')", "ImportError: half of it"),
    "setup that fails": (
        "import json\n"
        "def setup():\n    raise RuntimeError('first line\\nCUDA setup failed: no kernel.\\n')\n"
        "setup()",
        "RuntimeError: CUDA setup failed: no kernel):",
    ),
    "library that cannot be loaded": (
        "import ctypes\nctypes.CDLL('libnothing_of_the_kind.so')",
        "OSError: libnothing_of_the_kind.so",
    ),
    "name that has moved": ("from json import nothing", "ImportError: cannot import name"),
    "wrapped": (
        "try:\n    raise RuntimeError('inner words')\n"
        "except RuntimeError as error:\n    raise ImportError('outer') from error",
        "RuntimeError: inner words",
    ),
    "no words": ("raise AttributeError", "AttributeError: no reason given"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_named_with_its_words(python, tmp_path, name):
    source, words = BROKEN[name]
    put(tmp_path / "site", "standin", source, "9.8.7")
    told = reason(python, "standin")
    assert told.startswith("The Python package 'standin' 9.8.7 is there but cannot be imported (")
    assert words in told and "missing" not in told
    assert "pip install --upgrade --force-reinstall --no-deps standin" in told


def test_a_missing_package_is_named_as_pip_calls_it(python, tmp_path):
    put(tmp_path / "site", "standin", "import nothing_of_the_kind", "1.0")
    assert reason(python, "standin") == (
        "The Python package 'nothing_of_the_kind' is missing: pip install nothing_of_the_kind, "
        "in ComfyUI's Python."
    )
    hide(tmp_path / "site", "yaml")
    assert "'yaml' is missing: pip install pyyaml, in" in reason(python, "yaml").lower()


def test_other_errors_are_not_called_packages(python):
    script = """if True:
        from training.packages import why_not
        from training.errors import JobError
        for error in (JobError("x"), RuntimeError("CUDA out of memory"), OSError(28, "full")):
            try:
                raise error
            except Exception as caught:
                assert why_not(caught) == "", why_not(caught)
        try:
            import training.nothing_of_ours
        except ImportError as caught:
            assert why_not(caught) == "", why_not(caught)
        try:
            raise ImportError("Foo needs the bar library.")
        except ImportError as caught:  # raised by hand, as libraries do while they run
            told = why_not(caught)
            assert told == "A Python package cannot be used here (Foo needs the bar library).", told
        print("fine")
        """
    assert python("-c", script).stdout.strip() == "fine"


@pytest.fixture
def program(python, job_values, tmp_path):
    """program(changes): (exit code, events) of the training program."""
    from training import merge

    def run(changes: dict | None = None) -> tuple[int, list[dict]]:
        (tmp_path / "job.json").write_text(json.dumps(merge(job_values, changes or {})), "utf-8")
        done = python(ROOT / "training" / "__main__.py", tmp_path / "job.json")
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_broken_package_that_nobody_needs_stops_no_training(program, tmp_path):
    site = tmp_path / "site"
    put(site, "bitsandbytes", "raise RuntimeError('CUDA Setup failed despite GPU')", "0.45.0")
    put(site, "xformers", "from . import _C", "0.0.30")
    (site / "xformers" / "_C.py").write_text("raise OSError('[WinError 126] _C.pyd')", "utf-8")
    put(site, "torchaudio", "raise OSError('undefined symbol')", "2.0.0")
    code, events = program()
    assert (code, events[-1]["event"]) == (0, "done"), events[-1]
    said = [e["message"] for e in events if e["event"] == "warning"]
    for words in (
        "'bitsandbytes' 0.45.0 is there but cannot be imported (RuntimeError: CUDA Setup failed",
        "'xformers' 0.0.30 is there but cannot be imported (OSError: [WinError 126] _C.pyd)",
        "'torchaudio' 2.0.0 is there but cannot be imported (OSError: undefined symbol)",
    ):
        assert [m for m in said if words in m and m.endswith("Training goes on without it.")]

    code, events = program({"optimizer": {"kind": "adamw_8bit"}})  # which needs one of two
    assert (code, events[-1]["kind"]) == (2, "job")
    assert "'optimizer.kind': adamw_8bit needs a package that can" in events[-1]["message"]
    assert "pip install bitsandbytes or torchao" in events[-1]["message"]
    assert "(RuntimeError: CUDA Setup failed despite GPU)" in events[-1]["message"]


@pytest.mark.parametrize(
    ("package", "source", "words"),
    [
        ("peft", "", "The Python package 'peft' is missing: pip install peft, in ComfyUI's"),
        ("yaml", "", "The Python package 'yaml' is missing: pip install"),
        ("peft", "raise ImportError('half of it is gone')", "'peft' 0.17.0 is there but cannot"),
    ],
)
def test_a_package_that_training_needs_is_named(program, tmp_path, package, source, words):
    if source:
        put(tmp_path / "site", package, source, "0.17.0")
    else:
        hide(tmp_path / "site", package)
    code, events = program()
    assert (code, events[-1]["event"], events[-1]["kind"]) == (2, "error", "package")
    assert words in events[-1]["message"] and "Traceback" not in events[-1]["message"]
