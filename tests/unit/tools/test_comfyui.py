"""The cached ComfyUI: unpacked once, noticed when damaged, renewed, never half there."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.comfyui import ComfyUIError, Release, find_comfyui, find_fault, obtain
from tools.front_end import find_front_end
from tools.server import ROOT

FILES = {"main.py": b"print('hello')\n", "comfyui_version.py": b"", "comfy/ops.py": b"x = 1\n"}


class Index:
    """Stands for the package index: serves one archive, counts how often."""

    def __init__(self, folder: Path, members: dict[str, bytes], **release: str):
        self.archive = folder / "thing-1.0.tar.gz"
        self.downloads = 0
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        facts = {"package": "thing", "package_version": "1.0", "version": "9.9"}
        self.release = Release(**facts, folder="vendor/ComfyUI", **{"sha256": sha256, **release})

    def download(self, folder: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copy(self.archive, folder))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    members = {f"thing-1.0/vendor/ComfyUI/{name}": data for name, data in FILES.items()}
    return Index(tmp_path, {**members, "thing-1.0/setup.py": b"raise SystemExit"})


def unpacked(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_unpacks_only_its_folder_and_only_once(index, tmp_path):
    cache = tmp_path / "a cache"
    folder = obtain(index.release, cache, index.download)
    assert unpacked(folder) == FILES
    assert obtain(index.release, cache, index.download) == folder
    assert index.downloads == 1
    assert sorted(p.name for p in cache.iterdir()) == ["ComfyUI-9.9", "ComfyUI-9.9.lock"]


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda f: (f / "comfy/ops.py").unlink(), "ops.py is missing"),
        (lambda f: (f / "comfy/ops.py").write_bytes(b""), "another size"),
        (lambda f: (f / "comfy/ops.py").write_bytes(b"x = 2\n"), "another content"),
        (lambda f: (f / ".manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / ".manifest.json").write_text('{"files"'), "manifest cannot be read"),
        (lambda f: (f / ".manifest.json").write_text('{"files": {}}'), "manifest is empty"),
        (lambda f: (f / ".manifest.json").write_text('{"files": {"a": 3}}'), "cannot be read"),
        (lambda f: shutil.rmtree(f / "comfy"), "ops.py is missing"),
        (lambda f: (shutil.rmtree(f), f.write_text("a file", "utf-8")), "manifest"),
    ],
)
def test_a_damaged_cache_is_noticed_and_renewed(index, tmp_path, damage, fault):
    folder = obtain(index.release, tmp_path / "cache", index.download)
    damage(folder)
    assert fault in find_fault(folder)
    obtain(index.release, tmp_path / "cache", index.download)
    assert index.downloads == 2
    assert find_fault(folder) is None
    assert unpacked(folder) == FILES


def test_other_times_and_added_files_are_no_damage(index, tmp_path):
    folder = obtain(index.release, tmp_path / "cache", index.download)
    touch(folder / "main.py")
    (folder / "comfy" / "__pycache__").mkdir()
    (folder / "comfy" / "__pycache__" / "ops.pyc").write_bytes(b"bytecode")
    obtain(index.release, tmp_path / "cache", index.download)
    assert index.downloads == 1


def test_what_a_killed_unpack_left_is_cleared(index, tmp_path):
    left = tmp_path / "cache" / "ComfyUI-9.9.new-dead"
    left.mkdir(parents=True)
    (left / "main.py").write_text("half", "utf-8")
    folder = obtain(index.release, tmp_path / "cache", index.download)
    assert not left.exists()
    assert unpacked(folder) == FILES


def test_a_failed_renewal_keeps_what_was_there(index, tmp_path):
    folder = obtain(index.release, tmp_path / "cache", index.download)
    (folder / "comfy/ops.py").write_bytes(b"mine\n!")

    def offline(_):
        raise ComfyUIError("no network")

    with pytest.raises(ComfyUIError, match="no network"):
        obtain(index.release, tmp_path / "cache", offline)
    assert (folder / "comfy/ops.py").read_bytes() == b"mine\n!"


def test_another_archive_is_refused_unopened(tmp_path):
    index = Index(tmp_path, {"thing/vendor/ComfyUI/main.py": b""}, sha256="0" * 64)
    with pytest.raises(ComfyUIError, match="expected 0000"):
        obtain(index.release, tmp_path / "cache", index.download)
    assert not (tmp_path / "cache" / "ComfyUI-9.9").exists()


@pytest.mark.parametrize("name", ["../../evil.py", "a/../../../evil.py", "C:/evil.py", "a\\..\\b"])
def test_members_that_leave_the_folder_are_refused(tmp_path, name):
    index = Index(tmp_path, {f"thing/vendor/ComfyUI/{name}": b"evil"})
    with pytest.raises(ComfyUIError, match="no plain file"):
        obtain(index.release, tmp_path / "cache", index.download)
    assert not list(tmp_path.rglob("evil.py"))


def test_links_are_refused(tmp_path):
    index = Index(tmp_path, {})
    with tarfile.open(index.archive, "w:gz") as tar:
        link = tarfile.TarInfo("thing/vendor/ComfyUI/models")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    sha256 = hashlib.sha256(index.archive.read_bytes()).hexdigest()
    release = Release("thing", "1.0", sha256, "vendor/ComfyUI", "9.9")
    with pytest.raises(ComfyUIError, match="no plain file"):
        obtain(release, tmp_path / "cache", index.download)


WORKER = """
import pathlib, shutil, sys, time
from tools.comfyui import Release, obtain
cache, archive, log = map(pathlib.Path, sys.argv[1:4])
def download(folder):
    with open(log, "a", encoding="utf-8") as file:
        file.write("downloaded\\n")
    time.sleep(0.5)
    return pathlib.Path(shutil.copy(archive, folder))
print(obtain(Release("thing", "1.0", sys.argv[4], "vendor/ComfyUI", "9.9"), cache, download))
"""


def test_processes_at_the_same_time_unpack_once(index, tmp_path):
    log = tmp_path / "log"
    paths = [str(tmp_path / "cache"), str(index.archive), str(log)]
    command = [sys.executable, "-c", WORKER, *paths, index.release.sha256]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
    found = {p.communicate(timeout=60)[0].strip() for p in started}
    assert all(p.returncode == 0 for p in started)
    assert found == {str(tmp_path / "cache" / "ComfyUI-9.9").encode()}
    assert log.read_text("utf-8") == "downloaded\n"


def test_comfyui_path_wins_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ComfyUIError, match="main.py is missing"):
        find_comfyui()
    (tmp_path / "main.py").touch()
    with pytest.raises(ComfyUIError, match="comfyui_version.py is missing"):
        find_comfyui()
    (tmp_path / "comfyui_version.py").touch()
    assert find_comfyui() == tmp_path


def test_a_front_end_is_a_folder_with_its_page(tmp_path, monkeypatch):
    monkeypatch.delenv("TROUPE_FRONT_END", raising=False)
    assert find_front_end() is None
    monkeypatch.setenv("TROUPE_FRONT_END", str(tmp_path))
    with pytest.raises(ComfyUIError, match="no index.html"):
        find_front_end()
    (tmp_path / "index.html").touch()
    assert find_front_end() == tmp_path.resolve()
