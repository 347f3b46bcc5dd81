"""Every kind of picture file becomes the right upright 8-bit sRGB, or an error that names it."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms, ImageFile, ImageSequence

from tests.systems import WINDOWS, needs_links
from training.errors import DatasetError
from training.images import MATTE, load_image, load_mask, read_picture

ORIENTATION = 0x0112
# How the upright picture lies in the file, per EXIF orientation (EXIF 2.3, table 6).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return skimage.data.chelsea()[20:220, 60:360]


def saved(path: Path, picture: Image.Image, **options) -> Path:
    picture.save(path, **options)
    return path


def png(path: Path, size, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> Path:
    """A PNG written by hand (the format, not Pillow, is the oracle)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_exif_rotation(tmp_path, photo, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](photo)))
    options = {"quality": 95} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    path = saved(tmp_path / f"a.{kind}", stored, exif=exif, **options)
    pixels = load_image(path)
    assert pixels.shape == photo.shape and pixels.dtype == np.uint8
    difference = np.abs(pixels.astype(int) - photo)
    assert difference.mean() < 3 if kind == "jpg" else difference.max() == 0


def test_broken_exif_keeps_the_picture(tmp_path, photo):
    bad = b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(40)
    path = saved(tmp_path / "a.jpg", Image.fromarray(photo), exif=bad)
    assert load_image(path).shape == photo.shape


def test_alpha_is_filled_with_mid_grey(tmp_path, photo):
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    rgba = np.dstack([photo, alpha])
    share = alpha[..., None] / 255
    expected = photo * share + MATTE * (1 - share)
    for kind, options in {"png": {}, "webp": {"lossless": True, "exact": True}, "tif": {}}.items():
        picture = read_picture(saved(tmp_path / f"a.{kind}", Image.fromarray(rgba), **options))
        assert np.abs(picture.pixels_hwc - expected).max() <= 1
        assert any("transparent" in remark for remark in picture.remarks)


def test_opaque_alpha_is_not_remarked(tmp_path, photo):
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(photo).convert("RGBA")))
    assert np.array_equal(picture.pixels_hwc, photo) and not picture.remarks


def test_every_way_to_be_transparent(tmp_path, photo):
    gray = Image.fromarray(photo).convert("L")
    hole = Image.new("L", gray.size, 255)
    hole.paste(0, (0, 0, 50, 50))
    gray_alpha = Image.merge("LA", (gray, hole))
    palette = Image.fromarray(photo).quantize(64)
    palette_index = palette.getpixel((0, 0))
    for path in (
        saved(tmp_path / "la.png", gray_alpha),
        saved(tmp_path / "index.png", palette, transparency=palette_index),
        saved(
            tmp_path / "bytes.png",
            palette,
            transparency=bytes(255 * (i != palette_index) for i in range(64)),
        ),
        saved(tmp_path / "index.gif", palette, transparency=palette_index),
        saved(
            tmp_path / "key.png", Image.fromarray(photo), transparency=tuple(photo[0, 0].tolist())
        ),
        saved(tmp_path / "graykey.png", gray, transparency=gray.getpixel((0, 0))),
    ):
        pixels = load_image(path)
        assert pixels.shape == photo.shape, path.name
        assert tuple(pixels[0, 0]) == (MATTE,) * 3, path.name


def test_16_bit_gray_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 256 * 64).astype(np.uint16).reshape(64, 256)
    expected = np.rint(values / 257.0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    tifffile.imwrite(tmp_path / "little.tif", values, byteorder="<")
    tifffile.imwrite(tmp_path / "big.tif", values, byteorder=">")
    for path in (
        png(tmp_path / "a.png", (256, 64), 16, 0, rows),
        tmp_path / "little.tif",
        tmp_path / "big.tif",
    ):
        pixels = load_image(path)
        assert np.array_equal(pixels, np.dstack([expected] * 3)), path.name


def test_16_bit_colour_is_scaled(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (32, 48, 3), dtype=np.uint16)
    alpha = np.full((32, 48, 1), 65535, np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    rgba = b"".join(b"\0" + r.astype(">u2").tobytes() for r in np.dstack([values, alpha]))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    for path in (
        png(tmp_path / "a.png", (48, 32), 16, 2, rows),
        png(tmp_path / "b.png", (48, 32), 16, 6, rgba),
        tmp_path / "a.tif",
    ):
        assert np.abs(load_image(path) - values / 257.0).max() <= 1, path.name


@pytest.mark.parametrize(("top", "kind"), [(1.0, "f4"), (255, "f4"), (65535, "f4"), (65535, "i4")])
def test_float_and_32_bit_tiff(tmp_path, top, kind):
    share = np.linspace(0, 1, 256 * 32).reshape(32, 256)
    tifffile.imwrite(tmp_path / "a.tif", (share * top).astype(kind))
    assert np.abs(load_image(tmp_path / "a.tif")[..., 0] - share * 255).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_float_tiff_without_meaning_is_refused(tmp_path, bad):
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = bad
    tifffile.imwrite(tmp_path / "odd.tif", values)
    with pytest.raises(DatasetError, match=r"odd\.tif.*export"):
        load_image(tmp_path / "odd.tif")


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette(tmp_path, photo, mode):
    picture = Image.fromarray(photo).convert(mode)
    pixels = load_image(saved(tmp_path / "a.png", picture))
    assert np.array_equal(pixels, np.array(picture.convert("RGB")))


def test_cmyk_jpeg_from_adobe_and_from_others(tmp_path, photo):
    cmyk = Image.fromarray(photo).convert("CMYK")
    expected = np.array(cmyk.convert("RGB")).astype(int)
    adobe = saved(tmp_path / "adobe.jpg", cmyk, quality=98)  # Pillow writes Adobe's inversion
    data = saved(tmp_path / "x.jpg", Image.eval(cmyk, lambda v: 255 - v), quality=98).read_bytes()
    start = data.index(b"\xff\xee")
    length = 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    plain = tmp_path / "plain.jpg"
    plain.write_bytes(data[:start] + data[start + length :])
    for path in (adobe, plain, saved(tmp_path / "a.tif", cmyk)):
        picture = read_picture(path)
        assert np.abs(picture.pixels_hwc - expected).mean() < 2, path.name
        assert any("CMYK" in remark for remark in picture.remarks)


def matrix_profile(primaries_xyz: np.ndarray, gamma: float) -> bytes:
    """A version 2 ICC display profile; `primaries_xyz` columns are R, G, B in XYZ (D50)."""

    def fixed(values) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    name = b"wide test"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(79)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0"}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + fixed((0.9642, 1.0, 0.8249))
    for letter, column in zip(b"rgb", primaries_xyz.T, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(column)
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
        tags[bytes([letter]) + b"TRC"] = curve
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data
    total = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", total, b"test", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


SRGB_D50 = np.array(  # ICC's sRGB primaries, adapted to D50
    [[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
)
P3_D50 = np.array(  # Display P3
    [[0.5151, 0.2919, 0.1572], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
)


def test_colour_profile_becomes_srgb(tmp_path):
    rng = np.random.default_rng(1)
    wide = rng.integers(64, 192, (16, 16, 3), dtype=np.uint8)  # stays inside sRGB's gamut
    linear = (wide / 255.0) ** 2.2 @ (np.linalg.inv(SRGB_D50) @ P3_D50).T
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    path = saved(tmp_path / "a.png", Image.fromarray(wide), icc_profile=matrix_profile(P3_D50, 2.2))
    pixels = load_image(path)
    assert np.abs(pixels - encoded * 255).max() <= 2
    assert np.abs(pixels.astype(int) - wide).max() > 5  # the profile did something


def test_srgb_profile_changes_nothing_and_a_bad_one_is_remarked(tmp_path, photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(photo)
    assert np.array_equal(load_image(saved(tmp_path / "a.png", picture, icc_profile=srgb)), photo)
    damaged = read_picture(saved(tmp_path / "b.png", picture, icc_profile=b"nonsense" * 30))
    assert np.array_equal(damaged.pixels_hwc, photo)
    assert any("profile" in remark for remark in damaged.remarks)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path, kind):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    path = tmp_path / f"a.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert len(list(ImageSequence.Iterator(Image.open(path)))) == 3
    picture = read_picture(path)
    assert np.array_equal(picture.pixels_hwc, np.array(frames[0]))
    assert any("first" in remark for remark in picture.remarks)


KINDS = ["jpg", "png", "webp", "gif", "bmp", "tif", "avif"]


def encoded(photo: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    name = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    Image.fromarray(photo).save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_is_an_error_whatever_others_told_pillow(
    tmp_path, photo, kind, share, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(photo, kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError, match=rf"^cut\.{kind}: .*(again|take it out)"):
        load_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "avif"])
def test_file_that_ends_in_zeros_is_an_error(tmp_path, photo, kind):
    data = encoded(photo, kind)
    path = tmp_path / f"zeros.{kind}"
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    with pytest.raises(DatasetError, match="again"):
        load_image(path)


def test_jpeg_with_missing_middle_is_remarked(tmp_path, photo):
    data = encoded(photo, "jpg")
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")  # libjpeg fills the rest with grey
    assert any("grey" in remark for remark in read_picture(path).remarks)


def test_sound_jpegs_are_not_suspected(tmp_path, photo):
    padded = photo.copy()
    padded[-60:] = 255
    variants = {"plain": {}, "progressive": {"progressive": True}}
    for name, options in variants.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(encoded(padded, "jpg", **options) + bytes(3000))  # cameras pad files
        assert read_picture(path).remarks == ()


def test_flipped_bits_in_png(tmp_path, photo):
    data = bytearray(encoded(photo, "png"))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "bits.png"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"^bits\.png: .*damaged"):
        load_image(path)


def test_huge_sizes_are_refused_before_decoding(tmp_path):
    for size in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (20_000, 20_000)):
        path = png(tmp_path / "bomb.png", size, 8, 2, b"")
        with pytest.raises(DatasetError, match=r"^bomb\.png: .*pixels"):
            load_image(path)


def test_what_is_no_picture(tmp_path):
    contents = {
        "text.png": b"just words",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "page.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "random.webp": bytes(range(256)) * 20,
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DatasetError, match=rf"^{name}: not a picture.*PNG or JPEG"):
            load_image(tmp_path / name)


def test_empty_missing_and_special_files(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(DatasetError, match=r"empty\.png: the file is empty"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(DatasetError, match=r"gone\.png: cannot be read"):
        load_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    odd = ["folder.png"]
    if not WINDOWS:
        os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
        odd.append("pipe.png")
    for name in odd:
        with pytest.raises(DatasetError, match=rf"{name}: not a regular file"):
            load_image(tmp_path / name)


@needs_links
def test_a_link_in_a_circle(tmp_path):
    os.symlink("loop.png", tmp_path / "loop.png")
    with pytest.raises(DatasetError, match=r"loop\.png: cannot be read"):
        load_image(tmp_path / "loop.png")


def test_digest_is_of_the_file_and_checked(tmp_path, photo):
    import hashlib

    path = saved(tmp_path / "a.png", Image.fromarray(photo))
    digest = read_picture(path).digest
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(load_image(path, digest), photo)
    saved(path, Image.fromarray(photo[:50]))
    with pytest.raises(DatasetError, match=r"a\.png changed .* load it again"):
        load_image(path, digest)


def test_mask_is_gray(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(load_mask(saved(tmp_path / "m.png", Image.fromarray(values))), values)
