"""run.py for real, in a copy of the house with a tiny requirement instead of 7 GB."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.systems import needs_links
from tools.server import ROOT

PYTEST = "import json, sys; print('ran', ascii(sys.prefix), json.dumps(sys.argv[1:])); sys.exit(7)"


def make_wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """An installable package without content."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return wheel


class House:
    """A checkout whose environment holds one tiny package, and whose pytest is a stub.

    Its folder has a name that the code page of the output lacks.
    """

    def __init__(self, folder: Path):
        self.root = folder / "a clone, \u65e5\u672c"
        self.root.mkdir(parents=True)
        shutil.copy(ROOT / "run.py", self.root)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tools", self.root / "tools", ignore=ignored)
        (self.root / "pytest.py").write_text(PYTEST, "ascii")
        self.comfyui = folder / "ComfyUI"
        self.comfyui.mkdir()
        for name in ("main.py", "comfyui_version.py", "requirements.txt"):
            (self.comfyui / name).touch()
        (self.root / "tools" / "requirements-dev.txt").write_text("", "ascii")
        self.requirements = self.root / "requirements.txt"
        self.require("alpha")

    def require(self, name: str) -> None:
        self.requirements.write_text(make_wheel(self.root.parent, name).as_uri() + "\n", "ascii")

    def run(self, *arguments: str, root: Path | None = None) -> tuple[int, str]:
        """(exit code, everything printed) of run.py."""
        code_page = {"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"}
        environment = {**os.environ, **code_page, "COMFYUI_PATH": str(self.comfyui)}
        command = [sys.executable, str((root or self.root) / "run.py"), *arguments]
        merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "cp1252"}
        done = subprocess.run(command, env=environment, cwd=self.root.parent, **merged)
        return done.returncode, done.stdout

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def installed(self) -> set[str]:
        return {p.name.split("-")[0] for p in self.venv.rglob("*-1.0.dist-info")}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house whose first run is done; the tests go on from there, in order."""
    house = House(tmp_path_factory.mktemp("house"))
    code, printed = house.run("tests", "-k", "a b")
    assert f'ran {str(house.venv)!a} ["-k", "a b"]' in printed
    assert code == 7  # the tool's own exit code
    return house


def test_a_second_run_installs_nothing(house):
    assert house.installed() == {"alpha"}
    code, printed = house.run("tests")
    assert code == 7
    assert "Installing" not in printed and "Making" not in printed


@needs_links
def test_through_a_link_it_is_the_same_house(house, tmp_path):
    (tmp_path / "custom nodes").mkdir()
    link = tmp_path / "custom nodes" / "ComfyUI-Troupe"
    link.symlink_to(house.root, target_is_directory=True)
    code, printed = house.run("tests", root=link)
    assert f"ran {str(house.venv)!a}" in printed and "Making" not in printed


def test_a_changed_requirement_updates_the_environment(house):
    house.require("beta")
    _, printed = house.run("tests")
    assert "Installing" in printed and "Making" not in printed
    assert house.installed() == {"alpha", "beta"}


def test_a_requirement_that_cannot_be_had_is_told_and_tried_again(house):
    house.requirements.write_text("./no-such-thing\n", "ascii")
    code, printed = house.run("tests")
    assert code == 1
    assert "could not install" in printed and "ran" not in printed.split()
    house.require("beta")
    assert house.run("tests")[0] == 7


def test_a_killed_install_starts_anew(house):
    (house.venv / "troupe-unfinished").touch()
    _, printed = house.run("tests")
    assert "Making" in printed
    assert house.installed() == {"beta"}
    assert not (house.venv / "troupe-unfinished").exists()


def test_a_broken_environment_is_made_again(house):
    for python in house.venv.glob("*/python*"):
        if not python.is_dir():
            python.unlink()
    code, printed = house.run("tests")
    assert "Making" in printed and code == 7


def test_unknown_commands_print_the_usage(house):
    code, printed = house.run("dance")
    assert code == 2 and "run.py demo" in printed
    assert house.run("--help")[0] == 0


def test_a_python_without_venv_is_told_how_to_get_it(tmp_path):
    house = House(tmp_path)
    script = "import runpy, sys; sys.modules['ensurepip'] = None; sys.argv = ['run.py', 'lint'];"
    script += f"runpy.run_path({str(house.root / 'run.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert not house.venv.exists()
