"""Generated damage in a dataset: nothing crashes, and each message names the file and the trouble.

Every case spoils one thing beside a sound picture. What cannot be used is left out and named; what
can be used with a remark is used and remarked on.
"""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.systems import needs_case, needs_links, needs_pipes
from training import DatasetError, DatasetSettings
from training.buckets import place_image, place_mask, plan_buckets
from training.dataset import read_dataset
from training.sheet import contact_sheet


def encoded(kind: str, mode: str = "RGB", size=(96, 80), **options) -> bytes:
    values = np.random.default_rng(1).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values, "RGBA").convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width: int, height: int, depth=8, colour=2, data=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes, share: float) -> bytes:
    at = int(len(data) * share)
    return data[:at] + bytes(b ^ 0xA5 for b in data[at : at + 40]) + data[at + 40 :]


def float_tiff(value: float) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40), value, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


AGAIN = "copy or export it again"
# name: (bytes, words of the error); the picture is left out
LEFT_OUT = {
    "zero.png": (b"", "the file is empty"),
    "one_byte.jpg": (b"\xff", "not a picture"),
    "text.png": (b"hello, I am no picture", "not a picture"),
    "page.jpg": (b"<!doctype html><title>404</title>", "not a picture"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "zip.webp": (b"PK\x03\x04" + bytes(80), "not a picture"),
    "elf.bmp": (b"\x7fELF" + bytes(200), "not a picture"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a picture"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "signature.png": (b"\x89PNG\r\n\x1a\n", "not a picture"),
    "half.png": (half(encoded("PNG")), AGAIN),
    "half.jpg": (half(encoded("JPEG")), AGAIN),
    "half.webp": (half(encoded("WEBP", quality=80)), AGAIN),
    "half.tif": (half(encoded("TIFF")), AGAIN),
    "half.bmp": (half(encoded("BMP")), AGAIN),
    "half.gif": (half(encoded("GIF", "P")), AGAIN),
    "no_end.png": (encoded("PNG")[:-400], AGAIN),
    "header.jpg": (encoded("JPEG")[:30], ""),
    "flipped.png": (flipped(encoded("PNG"), 0.4), AGAIN),
    "chunk.png": (flipped(encoded("PNG"), 0.05), ""),
    "zeros.webp": (half(encoded("WEBP", quality=90, size=(256, 256))) + bytes(4096), AGAIN),
    "bomb.png": (png_claiming(50_000, 50_000), "pixels"),
    "wide_bomb.png": (png_claiming(2**31 - 1, 2**31 - 1), ""),
    "line.png": (png_claiming(2**31 - 1, 1), ""),
    "nothing.png": (png_claiming(0, 0), ""),
    "depth.png": (png_claiming(8, 8, depth=7), ""),
    "inflating.png": (png_claiming(13_000, 13_000, data=bytes(10**6)), ""),
    "nan.tif": (float_tiff(float("nan")), "not numbers"),
    "infinite.tif": (float_tiff(float("inf")), "not numbers"),
    "negative.tif": (float_tiff(-3.0), "negative"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset with one sound picture."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "good.png").write_bytes(encoded("PNG"))
    (tmp_path / "set" / "good.txt").write_text("a caption", "utf-8")
    return tmp_path / "set"


def said(dataset, path: str, *severities: str) -> str:
    """What the report says about a file, each on one printable line."""
    found = [i for i in dataset.issues if i.path == path and i.severity in severities]
    assert found, dataset.report()
    for issue in found:
        assert issue.message in dataset.report() and issue.message.isprintable()
    return " | ".join(issue.message for issue in found)


def usable(dataset) -> list[str]:
    """Names of the pictures that really can be trained on: each is placed and shown."""
    for place in plan_buckets(dataset.items, 64, step=8):
        assert place_image(place).isfinite().all() and place_mask(place).isfinite().all()
    contact_sheet(dataset)
    json.dumps(dataset.to_json()).encode()
    assert dataset.digest
    return [item.path.name for item in dataset.items]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_damaged_picture_is_left_out_and_named(folder, name):
    data, words = LEFT_OUT[name]
    (folder / name).write_bytes(data)
    dataset = read_dataset(folder)
    assert usable(dataset) == ["good.png"]
    assert words in said(dataset, name, "error")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_random_damage_is_read_or_named(tmp_path, kind):
    """Bytes changed, cut out or put in at random places: a picture, or an error with its name."""
    from training.images import read_picture

    random, path = np.random.default_rng(7), tmp_path / "picture"
    sound = encoded(kind, "P" if kind == "GIF" else "RGB", size=(40, 30))
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(int(random.integers(1, 6))):
            at, count = int(random.integers(len(data))), int(random.integers(1, 9))
            data[at : at + int(random.integers(0, count + 1))] = random.bytes(count)
        path.write_bytes(data)
        try:
            picture = read_picture(path)
        except DatasetError as error:
            assert str(error).startswith("picture: ") and "\n" not in str(error)
        else:
            assert picture.pixels_hwc.dtype == np.uint8 and picture.pixels_hwc.shape[2] == 3


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def sixteen_bit() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


# name: (bytes, words of the remark, "" for none)
USED = {
    "wrong_ending.png": (encoded("JPEG"), ""),
    "jpeg_as.webp": (encoded("JPEG"), ""),
    "cmyk.jpg": (encoded("JPEG", "CMYK"), "CMYK without a colour profile"),
    "gray.png": (encoded("PNG", "L"), ""),
    "one_bit.png": (encoded("PNG", "1"), ""),
    "palette.gif": (encoded("GIF", "P"), ""),
    "sixteen.png": (sixteen_bit(), ""),
    "alpha.png": (encoded("PNG", "RGBA"), "transparent parts"),
    "animated.gif": (animated("GIF"), "several frames"),
    "animated.webp": (animated("WEBP"), "several frames"),
    "pages.tif": (animated("TIFF"), "several frames"),
    "turned.jpg": (encoded("JPEG", exif=exif(6)), ""),
    "odd_exif.jpg": (encoded("JPEG", exif=exif(99)), ""),
    "broken_exif.jpg": (encoded("JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"), ""),
    "bad_icc.png": (encoded("PNG", icc_profile=b"no profile"), "profile cannot be used"),
    "tiny.png": (encoded("PNG", size=(1, 1)), "smaller than half"),
    "thin.png": (encoded("PNG", size=(2000, 3)), "smaller than half"),
    "trailing.jpg": (encoded("JPEG") + b"PK\x03\x04 and more", ""),
}


@pytest.mark.parametrize("name", USED)
def test_an_odd_picture_is_used_and_remarked_on(folder, name):
    data, words = USED[name]
    (folder / name).write_bytes(data)
    dataset = read_dataset(folder)
    assert sorted(usable(dataset)) == sorted(["good.png", name])
    assert words in said(dataset, name, "warning", "hint")
    width, height = next((i.width, i.height) for i in dataset.items if i.path.name == name)
    if name == "turned.jpg":
        assert (width, height) == (80, 96)


CAPTIONS = {
    "binary": (b"\x00\x01\x02\x03", "not text", "t"),
    "latin": ("na\u00efve".encode("cp1252"), "not UTF-8", "t, na\u00efve"),
    "lone bytes": (b"a \x81\x8d b", "not UTF-8", None),
    "cut UTF-8": ("zo\u00eb".encode()[:-1], "not UTF-8", None),
    "UTF-16": ("zo\u00eb".encode("utf-16"), "UTF-16", "t, zo\u00eb"),
    "half UTF-16": (b"\xff\xfea\x00b", "UTF-16", None),
    "control characters": (b"red\x07 \x1b[31mdress\x7f", "", "t, red [31mdress"),
    "bidirectional": ("a \u202e b \u200b c".encode(), "", None),
    "huge": (b"word " * 20_000, "larger than 64 KB", "t"),
    "only commas": (b", ,, ,", "no caption of its own", "t"),
    "only blanks": (b" \n\t\r\n", "no caption of its own", "t"),
    "braces": (b"{{{|||}}}", "", None),
    "deep braces": (b"{" * 30_000, "", None),
    "json": (b'{"caption": "x"}', "", None),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_bad_caption_file_is_named_and_the_picture_kept(folder, name):
    from training.data_settings import CaptionSettings
    from training.variants import CaptionVariants

    data, words, expected = CAPTIONS[name]
    (folder / "good.txt").write_bytes(data)
    dataset = read_dataset(folder, DatasetSettings(trigger="t"))
    assert usable(dataset) == ["good.png"]
    assert words in said(dataset, "good.png", "warning", "hint")
    (item,) = dataset.items
    assert item.caption.replace("\n", "").isprintable() and item.caption.startswith("t")
    if expected is not None:
        assert item.caption == expected
    assert CaptionVariants(CaptionSettings(shuffle=True), 0).of(item)


MASKS = {
    "no picture": (b"nothing", "its mask is not used: not a picture"),
    "empty": (b"", "its mask is not used: the file is empty"),
    "half": (half(encoded("PNG", "L")), "its mask is not used"),
    "bomb": (png_claiming(50_000, 50_000), "its mask is not used"),
    "another size": (encoded("PNG", "L", (50, 7)), "another size and is stretched"),
    "black": (png_claiming(1, 1, 8, 0, b"\0\0"), "all black"),
    "not a number": (float_tiff(float("nan")), "its mask is not used"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_bad_mask_is_named_and_the_picture_kept(folder, name):
    data, words = MASKS[name]
    (folder / "good-mask.png").write_bytes(data)
    dataset = read_dataset(folder)
    assert usable(dataset) == ["good.png"]
    assert words in said(dataset, "good.png", "warning")
    assert (dataset.items[0].mask_path is not None) == (name == "another size")


def loop_of_folders(folder):
    (folder / "characters").mkdir()
    os.symlink(folder / "characters", folder / "characters" / "again", target_is_directory=True)


def unreadable(path: Path):
    path.mkdir()
    path.chmod(0)


FOLDERS = {  # what is done, the place that is named, words
    "link in a circle": (
        lambda f: os.symlink("loop.png", f / "loop.png"),
        "loop.png",
        "the link leads nowhere",
    ),
    "two links in a circle": (
        lambda f: (os.symlink("y.png", f / "x.png"), os.symlink("x.png", f / "y.png")),
        "x.png",
        "the link leads nowhere",
    ),
    "folder in itself": (loop_of_folders, "characters/again/again/", "too deep"),
    "link to a device": (
        lambda f: os.symlink("/dev/zero", f / "zero.png"),
        "zero.png",
        "leads out of the dataset folder",
    ),
    "pipe": (lambda f: os.mkfifo(f / "pipe.png"), "pipe.png", "not a regular file"),
    "folder called picture": (lambda f: (f / "x.png").mkdir(), "x.png/", "this folder is not read"),
    "no repeats": (lambda f: (f / "0_zoe").mkdir(), "0_zoe/", "0 repeats"),
    "endless repeats": (lambda f: (f / f"{9**99}_z").mkdir(), f"{9**99}_z/", "rename it"),
    "same name, other ending": (
        lambda f: (f / "good.jpg").write_bytes(encoded("JPEG")),
        "good.png",
        "shares its name with good.jpg",
    ),
    "caption of nothing": (
        lambda f: (f / "gone.txt").write_text("x"),
        "gone.txt",
        "a caption without a picture",
    ),
    "mask of nothing": (
        lambda f: (f / "gone-masklabel.png").write_bytes(encoded("PNG", "L")),
        "gone-masklabel.png",
        "a mask without a picture",
    ),
    "format we lack": (
        lambda f: (f / "phone.heic").write_bytes(b"x"),
        "phone.heic",
        "this format is not read",
    ),
}


NEEDS = {name: needs_links for name in FOLDERS if "link" in name}
NEEDS |= {"folder in itself": needs_links, "pipe": needs_pipes}


@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDS.get(n, ())) for n in FOLDERS])
def test_odd_things_in_a_folder_are_named(folder, name):
    spoil, place, words = FOLDERS[name]
    spoil(folder)
    dataset = read_dataset(folder)
    assert "good.png" in usable(dataset)
    assert words in said(dataset, place, "error", "warning")


@needs_case
def test_names_that_differ_in_case_are_two_pictures(folder):
    (folder / "GOOD.png").write_bytes(encoded("PNG", "L"))
    (folder / "GOOD.txt").write_text("other", "utf-8")
    captions = {i.path.name: i.caption for i in read_dataset(folder).items}
    assert captions == {"good.png": "a caption", "GOOD.png": "other"}


def test_names_of_odd_characters(folder):
    names = [b"\xff\xfe.png", "zo\u00eb \u202e.png".encode(), b"a\nb.png", b"%s{0}$(x).png"]
    for number, name in enumerate(names):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(encoded("PNG", size=(64, 64 + number)))
    dataset = read_dataset(folder)
    assert len(usable(dataset)) == 5


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    """Real permissions do not stop the superuser, so the system call is made to refuse."""
    (folder / "characters").mkdir()
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("characters"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    dataset = read_dataset(folder)
    assert "unreadable (Permission denied)" in said(dataset, "characters/", "error")
    monkeypatch.setattr(os, "scandir", lambda path: refusing("characters"))
    with pytest.raises(DatasetError, match="set: the folder is unreadable"):
        read_dataset(folder)


def test_a_picture_that_may_not_be_read(folder, monkeypatch):
    (folder / "secret.png").write_bytes(encoded("PNG"))
    read = Path.read_bytes

    def refusing(path):
        if path.name == "secret.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    dataset = read_dataset(folder)
    assert "cannot be read (Permission denied)" in said(dataset, "secret.png", "error")


def test_only_damage_is_an_error_that_names_it(tmp_path):
    for name, (data, _) in LEFT_OUT.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match="none of its pictures can be used") as caught:
        read_dataset(tmp_path)
    assert any(name in str(caught.value) for name in LEFT_OUT)
    assert "\n" not in str(caught.value)


def test_there_are_many_cases():
    assert len(LEFT_OUT) + len(USED) + len(CAPTIONS) + len(MASKS) + len(FOLDERS) >= 60
