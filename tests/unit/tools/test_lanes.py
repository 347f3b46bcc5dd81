"""Lanes for real, in a copy of the house whose requirement is a tiny package."""

import os
import sys
from pathlib import Path

import pytest

from tests.systems import WINDOWS
from tests.unit.tools.test_run import House, make_wheel

HERE = f"python3.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("lanes"))


def lane(house: House, name: str, *arguments: str) -> tuple[int, str]:
    return house.run("tests", "--lane", name, *arguments)


def versions(house: House, name: str) -> set[str]:
    found = (house.root / ".lanes" / name).rglob("alpha-*.dist-info")
    return {folder.name.removesuffix(".dist-info") for folder in found}


def test_an_interpreter_has_an_environment_of_its_own_and_keeps_it(house):
    code, printed = lane(house, HERE, "-k", "a b")
    folder = house.root / ".lanes" / HERE
    assert f'ran {str(folder)!a} ["-k", "a b"]' in printed and code == 7
    assert versions(house, HERE) == {"alpha-1.0"} and not house.venv.exists()
    code, printed = lane(house, HERE)
    assert code == 7 and "Installing" not in printed and "Making" not in printed


def test_floors_are_the_lowest_and_newest_takes_a_coming_release(house, monkeypatch):
    wheels = house.root.parent / "wheels"
    wheels.mkdir()
    for version in ("0.9", "1.0", "2.0", "3.0rc1"):
        make_wheel(wheels, "alpha", version)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    house.requirements.write_text("alpha>=1.0\n", "ascii")
    (house.root / "tools" / "constraints.txt").write_text("", "ascii")
    (house.root / "tools" / "floors.txt").write_text("", "ascii")
    code, printed = lane(house, "floors")
    assert code == 7 and "alpha==1.0" in printed
    assert versions(house, "floors") == {"alpha-1.0"}
    assert lane(house, "newest")[0] == 7
    assert versions(house, "newest") == {"alpha-3.0rc1"}


def test_what_there_is_not_is_said(house, tmp_path, monkeypatch):
    code, printed = lane(house, "dance")
    assert code == 1 and "no lane 'dance'" in printed and "--lane floors" in printed
    code, printed = lane(house, "python3.99")
    assert code == 1 and "no python3.99 on this machine" in printed
    assert not (house.root / ".lanes" / "python3.99").exists()
    monkeypatch.setenv("WINDOWS_PYTHON", str(tmp_path))
    code, printed = lane(house, "windows")
    assert code == 1 and f"no Windows Python in {tmp_path}" in printed
    assert "tools/windows_python.sh" in printed


@pytest.mark.skipif(WINDOWS, reason="wine runs elsewhere")
def test_wine_is_given_a_drive_and_a_pipe_and_its_exit_code_counts(house, tmp_path, monkeypatch):
    """With a stand-in for wine that tells how it was started."""
    (tmp_path / "py311").mkdir()
    (tmp_path / "py311" / "python.exe").touch()
    wine = tmp_path / "wine"
    wine.write_text(
        f"#!{sys.executable}\n"
        "import os, stat, sys\n"
        "print(sys.argv[1:], os.environ['COMFYUI_PATH'], os.environ['WINEPREFIX'])\n"
        "print('pipe', all(stat.S_ISFIFO(os.fstat(n).st_mode) for n in (1, 2)))\n"
        "print('input', repr(sys.stdin.read()))\n"
        "sys.exit(5)\n",
        "ascii",
    )
    wine.chmod(0o755)
    monkeypatch.setenv("WINDOWS_PYTHON", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code, printed = lane(house, "windows", "tests/unit/video")
    assert code == 5 and "pipe True" in printed and "input ''" in printed
    assert str(Path(tmp_path, "py311", "python.exe")) in printed
    assert "'-n', '0', '-p', 'no:cacheprovider', 'tests/unit/video']" in printed
    assert "Z:" + str(house.comfyui).replace("/", "\\") in printed
