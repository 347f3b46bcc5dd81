"""Files that are whole or not there: beside programs that hold them open, and killed writers."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.inprocess import ROOT
from training import wholefile as training_file
from video import wholefile as video_file

WRITER = """
import sys
from pathlib import Path
from training.wholefile import whole_file

with whole_file(Path(sys.argv[1])) as part, open(part, "wb", buffering=0) as file:
    file.write(b"half")
    print(part.name, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=[training_file, video_file], ids=["training", "video"])
def module(request, monkeypatch):
    monkeypatch.setattr(request.param, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(request.param, "PAUSE_SECONDS", 0.01)
    if os.name == "nt":
        monkeypatch.setattr(request.param, "QUIET_SECONDS", 0.0)
    return request.param


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "film.mp4"


class Refusing:
    """os.replace, os.link or os.rename as Windows and network disks answer for an open file."""

    def __init__(self, action, times: float, only: str = "", number: int = errno.EACCES):
        self.action, self.left, self.only, self.number = action, times, only, number

    def __call__(self, source, target, **more):
        if self.left > 0 and str(target).endswith(self.only):
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number), str(source), None, str(target))
        return self.action(source, target, **more)


def start_writing(path: Path) -> tuple[subprocess.Popen, str]:
    """A process in the midst of writing `path`, and the name of its part."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen, kill: bool = False) -> None:
    if kill:
        process.kill()
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_both_engines_have_the_same_module():
    assert Path(training_file.__file__).read_bytes() == Path(video_file.__file__).read_bytes()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EBUSY])
def test_a_file_that_is_open_for_a_moment_is_waited_for(module, target, monkeypatch, number):
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", Refusing(os.replace, 2, number=number))
    with module.whole_file(target) as part:
        part.write_bytes(b"new")
    assert target.read_bytes() == b"new" and names(target.parent) == ["film.mp4"]


def test_a_finished_file_is_never_thrown_away(module, target, monkeypatch):
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", Refusing(os.replace, 1e9))
    with pytest.raises(module.FileInUse) as caught, module.whole_file(target) as part:
        part.write_bytes(b"an hour of work")
    said = str(caught.value)
    assert "Another program has film.mp4 open" in said and str(caught.value.kept) in said
    assert caught.value.kept.read_bytes() == b"an hour of work"
    assert target.read_bytes() == b"old" and caught.value.kept.suffix == ".mp4"


def test_what_cannot_even_be_renamed_survives_clearing_up(module, target, monkeypatch):
    """A scanner holds the finished file itself."""
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "link"):
            patch.setattr(os, name, Refusing(getattr(os, name), 1e9))
        with (
            pytest.raises(module.FileInUse) as caught,
            module.whole_file(target, new=True) as part,
        ):
            part.write_bytes(b"work")
    module.remove_all_left(target.parent, "film")
    assert caught.value.kept.read_bytes() == b"work"
    with module.whole_file(target) as part:  # and stands in nobody's way
        part.write_bytes(b"more")
    assert target.read_bytes() == b"more" and caught.value.kept.read_bytes() == b"work"


def test_other_refusals_are_said_at_once(module, target, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1e9)
    target.mkdir()  # Windows says of a folder what it says of an open file
    monkeypatch.setattr(os, "replace", Refusing(os.replace, 1e9))
    with pytest.raises(PermissionError), module.whole_file(target) as part:
        part.write_bytes(b"x")
    monkeypatch.setattr(os, "replace", Refusing(os.replace, 1e9, number=errno.ENOSPC))
    with pytest.raises(OSError, match="No space"), module.whole_file(target) as part:
        part.write_bytes(b"x")
    assert names(target.parent) == ["film.mp4"]


def test_sharing_violations_are_said_in_words(module):
    error = PermissionError(errno.EACCES, "Access denied", "C:\\films\\film.mp4")
    error.winerror = 32
    error.filename = "films/film.mp4"
    assert module.in_words(error) == "another program has film.mp4 open: close it there"
    plain = OSError(errno.ENOSPC, "No space left on device")
    assert module.in_words(plain) == "No space left on device"
    plain.filename = "C:\\films\\film.mp4"
    assert module.in_words(plain) == "No space left on device: C:\\films\\film.mp4"


def test_a_new_file_takes_nobody_s_name(module, target, monkeypatch):
    target.write_bytes(b"theirs")
    with pytest.raises(module.NameTaken), module.whole_file(target, new=True):
        raise AssertionError("the work began")
    other = target.with_name("b.mp4")
    for refused in ([], ["link"]):  # a disk without links has the claim only
        for name in refused:
            monkeypatch.setattr(os, name, Refusing(os.link, 1e9, number=errno.EPERM))
        with module.whole_file(other, new=True) as part:
            part.write_bytes(b"x")
            with pytest.raises(module.NameTaken), module.whole_file(other, new=True):
                raise AssertionError("two write one file")
        assert other.read_bytes() == b"x"
        other.unlink()
    monkeypatch.undo()
    with pytest.raises(module.NameTaken), module.whole_file(other, new=True) as part:
        part.write_bytes(b"x")
        other.write_bytes(b"of a program that knows no parts")
    assert other.read_bytes() == b"of a program that knows no parts"
    assert names(target.parent) == ["b.mp4", "film.mp4"] and target.read_bytes() == b"theirs"


def test_a_killed_writer_s_part_goes_and_a_living_one_s_stays(module, target):
    process, part = start_writing(target)
    try:
        module.remove_all_left(target.parent, "film")
        with pytest.raises(module.NameTaken), module.whole_file(target, new=True):
            pass
        with module.whole_file(target) as mine:  # the last one to finish wins, both are whole
            mine.write_bytes(b"mine")
        assert names(target.parent) == ["film.mp4", part]
        assert (target.parent / part).read_bytes() == b"half"
    finally:
        end(process, kill=True)
    assert (target.parent / part).exists()
    (target.parent / "film.mp4.part").write_bytes(b"a download of somebody else's")
    module.remove_all_left(target.parent, "film")
    assert names(target.parent) == ["film.mp4", "film.mp4.part"]


def test_a_killed_writer_s_part_is_no_bar(module, target):
    process, part = start_writing(target)
    end(process, kill=True)
    with module.whole_file(target, new=True) as mine:
        assert mine.name == part
        mine.write_bytes(b"mine")
    assert names(target.parent) == ["film.mp4"] and target.read_bytes() == b"mine"


def test_a_part_that_is_not_locked_yet_is_left_alone(module, target, monkeypatch):
    """Its writer may be between making and locking it."""
    monkeypatch.setattr(module, "QUIET_SECONDS", 60.0)
    part = target.with_name(f"film.mp4.1{module.PART}")
    part.touch()
    assert not module.remove_left(part)
    os.utime(part, (time.time() - 3600,) * 2)
    assert module.remove_left(part) and not part.exists()


def test_whether_a_file_can_be_replaced_is_found_out_before(module, target, monkeypatch):
    module.check_replaceable(target)
    assert names(target.parent) == []
    target.write_bytes(b"in use")
    os.utime(target, (5e8, 5e8))
    module.check_replaceable(target)
    assert target.read_bytes() == b"in use" and target.stat().st_mtime == 5e8
    monkeypatch.setattr(os, "replace", Refusing(os.replace, 1e9))
    with pytest.raises(module.FileInUse, match="film.mp4"):
        module.check_replaceable(target)
    assert names(target.parent) == ["film.mp4"] and target.read_bytes() == b"in use"


KEEPER = """
import sys
from pathlib import Path
from training.wholefile import NameTaken, whole_file

folder, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(25):
    number = 1
    while True:
        try:
            with whole_file(folder / f"zoe_{number:05}.safetensors", new=True) as part:
                part.write_text(f"{me} {turn}")
            break
        except NameTaken:
            number += 1
"""


def test_processes_that_want_the_same_names_lose_nothing(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(tmp_path), str(me)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(3)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        end(writer)
        assert writer.returncode == 0
    found = sorted(path.read_text() for path in tmp_path.glob("zoe_*.safetensors"))
    assert found == sorted(f"{me} {turn}" for me in range(3) for turn in range(25))
    assert len(names(tmp_path)) == 75  # numbers without a gap, and no part
