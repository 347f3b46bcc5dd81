"""Whatever lies in a dataset folder: no crash, and the message names the file and the remedy."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.systems import needs_links, needs_pipes
from training.dataset import Dataset, DatasetSettings, read_dataset
from training.errors import DatasetError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset with one sound picture."""
    (tmp_path / "set").mkdir()
    sound(tmp_path / "set" / "good.png")
    return tmp_path / "set"


def sound(path: Path) -> Path:
    """A plain picture of a colour of its own, with a caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    red, green, blue, _ = zlib.crc32(path.name.encode()).to_bytes(4, "big")
    Image.new("RGB", (64, 64), (red, green, blue)).save(path)
    path.with_suffix(".txt").write_text("a caption", "utf-8")
    return path


def issue(dataset: Dataset, path: str, severity: str) -> str:
    """The one message of that severity about `path`; it is on one line of the report."""
    found = [i for i in dataset.issues if i.path == path and i.severity == severity]
    assert len(found) == 1, dataset.report()
    assert found[0].message in dataset.report() and "\n" not in found[0].message
    return found[0].message


def bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def cut(kind: str) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


BAD_FILES = {
    "text.png": (b"hello", "not a picture this can read: save it as PNG or JPEG"),
    "zero.jpg": (b"", "the file is empty: copy or export it again"),
    "bomb.png": (bomb(), "pixels"),
    "cut.jpg": (cut("JPEG"), "copy or export it again"),
    "cut.png": (cut("PNG"), "copy or export it again"),
    "cut.webp": (cut("WEBP"), "copy or export it again"),
    "zip.gif": (b"PK\x03\x04" + bytes(50), "not a picture"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_left_out_and_named(folder, name):
    data, words = BAD_FILES[name]
    (folder / name).write_bytes(data)
    dataset = read_dataset(folder)
    assert [i.path.name for i in dataset.items] == ["good.png"]
    assert words in issue(dataset, name, "error")


@pytest.mark.parametrize("name", BAD_FILES)
def test_only_bad_files(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_FILES[name][0])
    with pytest.raises(DatasetError, match=rf"none of its pictures can be used.*{name}"):
        read_dataset(tmp_path)


@needs_links
@needs_pipes
def test_special_files_are_named(folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "good.caption")
    (folder / "folder.png").mkdir()
    os.symlink("nowhere.png", folder / "broken.png")
    os.symlink("loop.png", folder / "loop.png")
    dataset = read_dataset(folder)
    assert len(dataset.items) == 1
    assert "not a regular file: take it out" in issue(dataset, "pipe.png", "error")
    assert "not a regular file" in issue(dataset, "good.caption", "error")
    assert "leads nowhere: copy the file here" in issue(dataset, "broken.png", "error")
    assert "copy the file here" in issue(dataset, "loop.png", "error")
    assert "not read" in issue(dataset, "folder.png/", "warning")


@needs_links
def test_links_stay_inside_the_allowed_folders(folder, tmp_path):
    secret = sound(tmp_path / "outside" / "secret.png")
    sound(tmp_path / "library" / "shared.png")
    os.symlink(secret, folder / "link.png")
    os.symlink(secret.parent, folder / "5_linked")
    os.symlink(secret.with_suffix(".txt"), folder / "stolen.txt")
    os.symlink(tmp_path / "library" / "shared.png", folder / "library.png")
    os.symlink("good.png", folder / "own.png")
    for place in ("masks", "characters"):
        (folder / place).mkdir()
        os.symlink(secret, folder / place / "good.png")
    dataset = read_dataset(folder, allowed_roots=[tmp_path / "library"])
    assert [i.path.name for i in dataset.items] == ["good.png", "library.png", "own.png"]
    assert dataset.items[0].mask_path is None
    refused = ("link.png", "5_linked", "stolen.txt", "masks/good.png", "characters/good.png")
    for path in refused:
        assert issue(dataset, path, "error") == (
            "the link leads out of the dataset folder: copy the file here"
        )
    strict = read_dataset(folder)
    assert [i.path.name for i in strict.items] == ["good.png", "own.png"]


@needs_links
def test_dataset_folder_may_itself_be_a_link(folder, tmp_path):
    os.symlink(folder, tmp_path / "alias")
    assert len(read_dataset(tmp_path / "alias").items) == 1


def test_no_folder_and_no_pictures(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset folder 'gone': create it"):
        read_dataset(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="no dataset folder 'file'"):
        read_dataset(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"No images in empty: put .png/.jpg files there"):
        read_dataset(tmp_path / "empty")


def test_pictures_in_the_wrong_place_are_pointed_at(tmp_path):
    sound(tmp_path / "photos" / "a.png")
    with pytest.raises(DatasetError, match=r"No images in .* photos/: .*name it 1_NAME or one of"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "severity", "words"),
    [
        ("0_zoe", "warning", "0 repeats: its pictures are left out; rename it"),
        ("5000_zoe", "error", "5000 repeats"),
        ("99999999999999999999_zoe", "error", "rename it to a number from 1 to 1000"),
        ("-3_zoe", "warning", "not read"),
        ("10_", "warning", "name it 1_NAME"),
        ("character", "warning", "poses, attire, characters, backgrounds"),
        ("\u0663_zoe", "warning", "not read"),  # an Arabic digit is no number here
    ],
)
def test_odd_folder_names(folder, name, severity, words):
    sound(folder / name / "a.png")
    dataset = read_dataset(folder)
    assert [i.path.name for i in dataset.items] == ["good.png"]
    assert words in issue(dataset, f"{name}/", severity)


def test_too_deep_folders(folder):
    sound(folder / "characters" / "zoe" / "more" / "a.png")
    sound(folder / "10_x" / "sub" / "a.png")
    dataset = read_dataset(folder)
    assert len(dataset.items) == 1
    for place in ("characters/zoe/more/", "10_x/sub/"):
        assert "too deep" in issue(dataset, place, "warning")


def test_double_names_and_lone_captions(folder):
    sound(folder / "a.png")
    sound(folder / "a.jpg")
    (folder / "good.caption").write_text("other", "utf-8")
    (folder / "lone.txt").write_text("x", "utf-8")
    (folder / "metadata.jsonl").write_text("{}", "utf-8")
    (folder / "phone.HEIC").write_bytes(b"x")
    dataset = read_dataset(folder)
    assert [i.path.name for i in dataset.items] == ["a.jpg", "a.png", "good.png"]
    assert issue(dataset, "a.png", "warning") == (
        "shares its name with a.jpg: rename one, they get the same caption"
    )
    assert "good.txt is the caption" in issue(dataset, "good.caption", "warning")
    assert "without a picture" in issue(dataset, "lone.txt", "warning")
    assert 'has no "file_name"' in issue(dataset, "metadata.jsonl line 1", "warning")
    assert "PNG or JPEG" in issue(dataset, "phone.HEIC", "warning")


def test_caption_files_that_cannot_be_used(folder):
    (folder / "good.txt").write_bytes(b"\x00\x01")
    sound(folder / "latin.png").with_suffix(".txt").write_bytes("na\u00efve".encode("cp1252"))
    sound(folder / "long.png").with_suffix(".txt").write_bytes(b"x" * 70_000)
    sound(folder / "dir.png").with_suffix(".txt").unlink()
    (folder / "dir.txt").mkdir()
    dataset = read_dataset(folder, DatasetSettings(trigger="t"))
    captions = {i.path.name: i.caption for i in dataset.items}
    assert captions == {
        "dir.png": "t",
        "good.png": "t",
        "latin.png": "t, na\u00efve",
        "long.png": "t",
    }
    assert "plain UTF-8" in issue(dataset, "good.png", "warning")
    assert "save it as UTF-8" in issue(dataset, "latin.png", "warning")
    assert "64 KB" in issue(dataset, "long.png", "warning")


def test_no_caption_and_no_trigger(folder):
    (folder / "good.txt").unlink()
    dataset = read_dataset(folder)
    assert dataset.items[0].caption == ""
    assert "write one in a same-name .txt file" in issue(dataset, "good.png", "warning")


def test_hidden_files_and_sidecars_are_silent(folder):
    for name in (".DS_Store", "._good.png", "Thumbs.db", "notes.json", "good.npz"):
        (folder / name).write_bytes(b"x")
    (folder / ".cache").mkdir()
    assert read_dataset(folder, resolution=64).items[0].path.name == "good.png"
    assert all(i.path == "good.png" for i in read_dataset(folder).issues)


def test_too_many_files(folder, monkeypatch):
    monkeypatch.setattr("training.folders.MAX_FILES", 3)
    for number in range(3):
        sound(folder / f"{number}.png")
    with pytest.raises(DatasetError, match="more than 3 files: split it"):
        read_dataset(folder)
