"""The pack asks for nothing that ComfyUI's own requirements do not allow."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.comfyui import find_comfyui
from tools.inprocess import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TORCH = ("torch", "torchvision", "torchaudio")
NONE = Version("0")
# what ComfyUI writes is not what it can have: transformers 4.50.3, its own floor, asks for more
HELD_UP = {"safetensors": Version("0.4.3")}


def read(path: Path) -> dict[str, SpecifierSet]:
    """{package: versions} of a requirements file."""
    lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    return {canonicalize_name(w.name): w.specifier for w in wanted}


def floor(versions: SpecifierSet) -> Version:
    """The lowest version allowed by a lower bound, or 0 without one."""
    bounds = [Version(s.version) for s in versions if s.operator in (">=", "~=", "==")]
    return max(bounds, default=NONE)


@pytest.fixture(scope="module")
def ours() -> dict[str, SpecifierSet]:
    return read(ROOT / "requirements.txt")


def test_pyproject_and_requirements_say_the_same(ours):
    listed = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {canonicalize_name(r.name): r.specifier for r in listed} == ours


def test_only_lower_bounds_and_none_for_torch(ours):
    for name, versions in ours.items():
        assert all(s.operator == ">=" for s in versions), f"{name}{versions}"
    assert not [name for name in TORCH if ours.get(name)]


def test_no_floor_above_comfyuis(ours):
    theirs = read(find_comfyui() / "requirements.txt")
    shared = set(ours) & set(theirs)
    assert {"numpy", "transformers", "safetensors", "av"} <= shared
    for name in shared:
        assert floor(ours[name]) <= max(floor(theirs[name]), HELD_UP.get(name, NONE)), name


def test_installing_beside_comfyui_replaces_nothing(tmp_path):
    """pip's own plan for an environment that holds ComfyUI's packages and no others."""
    there = closure(read(find_comfyui() / "requirements.txt"))
    assert {"torch", "numpy", "pydantic", "tokenizers"} <= there
    python = environment_with(there, tmp_path / "env")
    extras = PROJECT["optional-dependencies"]
    wanted = [str(r) for group in extras.values() for r in group]
    planned = plan(python, ["-r", str(ROOT / "requirements.txt"), *wanted], tmp_path)
    assert {"diffusers", "peft"} <= planned
    assert not planned & there


def closure(wanted: Iterable[str]) -> set[str]:
    """These packages and all they require, as far as they are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in wanted]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requires = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        needed = [r for r in map(Requirement, requires) if applies(r)]
        waiting += [canonicalize_name(r.name) for r in needed]
    return found


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def environment_with(packages: set[str], folder: Path) -> Path:
    """The interpreter of an environment that lists these packages, in the versions of this one.

    Only their metadata is there, which is all that pip plans by.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    for name in packages:
        found = metadata.distribution(name)
        (record,) = [f for f in found.files if f.name == "METADATA" and len(f.parts) == 2]
        source = Path(str(found.locate_file(record))).parent
        shutil.copytree(source, site / source.name)
    return python


def plan(python: Path, wanted: list[str], folder: Path) -> set[str]:
    """The packages that `pip install` would put in or exchange."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--dry-run", "-q"]
    command += ["--disable-pip-version-check", "--report", str(report), *wanted]
    subprocess.run(command, check=True, cwd=folder)
    planned = json.loads(report.read_text("utf-8"))["install"]
    return {canonicalize_name(item["metadata"]["name"]) for item in planned}
