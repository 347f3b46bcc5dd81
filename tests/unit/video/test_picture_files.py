"""Picture files that were read wrongly or passed over: float TIFF, animations, odd names."""

import functools
import struct

import numpy as np
import pytest
from PIL import Image, features

from tests.unit.video.conftest import psnr, rendered, texture
from video import Shot, assemble, pictures_in_folder
from video.sources import load_picture, natural_key

AVIF = "avif" in features.modules and features.check("avif")


def float_tiff(samples: np.ndarray) -> bytes:
    """An uncompressed TIFF of 32 bit floats, (height, width) or (height, width, 3)."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else 3
    data = samples.astype("<f4").tobytes()
    entries = 11
    arrays = 8 + 2 + 12 * entries + 4  # behind the directory: bits and kinds of each channel
    pixels = arrays + 4 * channels
    bits, kinds = (arrays, arrays + 2 * channels) if channels > 2 else (32, 3)
    tags = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 3, 1, 1)),
        *((262, 3, 1, 2 if channels == 3 else 1), (273, 4, 1, pixels), (277, 3, 1, channels)),
        *((278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1), (339, 3, channels, kinds)),
    ]
    out = b"II*\0" + struct.pack("<IH", 8, entries)
    out += b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    out += struct.pack(f"<{channels}H", *[32] * channels)
    return out + struct.pack(f"<{channels}H", *[3] * channels) + data


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_float_tiffs_are_not_black(tmp_path, scale):
    levels = texture(48, 32)
    samples = levels / 255 if scale == 1 else levels.astype(float) * (scale // 255)
    (tmp_path / "grey.tif").write_bytes(float_tiff(samples[..., 0]))
    (tmp_path / "colour.tiff").write_bytes(float_tiff(samples))
    assert np.array_equal(load_picture(tmp_path / "grey.tif"), levels[..., :1].repeat(3, 2))
    assert np.array_equal(load_picture(tmp_path / "colour.tiff"), levels)
    assert pictures_in_folder(tmp_path).size() == (48, 32)


def test_float_tiffs_brighter_than_white_are_clamped(tmp_path):
    (tmp_path / "hdr.tif").write_bytes(float_tiff(np.array([[0.5, 7.25], [np.nan, -3.0]])))
    assert load_picture(tmp_path / "hdr.tif")[..., 0].tolist() == [[128, 255], [0, 0]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "avif", "png", "apng"])
def test_animations_give_all_their_frames(tmp_path, suffix):
    """In their place among the other pictures of the folder, transparency over black."""
    if suffix == "avif" and not AVIF:
        pytest.skip("this Pillow does not write AVIF")
    frames = [Image.new("RGB", (32, 24), (20 * n, 100, 200)) for n in range(8)]
    options = {"lossless": True} if suffix == "webp" else {}
    name, kind = f"b.{suffix}", {"apng": "PNG"}.get(suffix)
    frames[0].save(
        tmp_path / name, kind, save_all=True, append_images=frames[1:], duration=100, **options
    )
    Image.new("RGB", (32, 24), (255, 100, 200)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 24), (240, 100, 200)).save(tmp_path / "c.png")
    source = pictures_in_folder(tmp_path)
    got = rendered(assemble([Shot(source)], 24))[:, 12, 16, 0].astype(int)
    assert np.abs(got - [255, *range(0, 160, 20), 240]).max() <= 3
    from video import Renderer

    with Renderer(assemble([Shot(source)], 24)) as renderer:  # backwards too
        assert abs(int(renderer.frame(6)[12, 16, 0]) - 100) <= 3
        assert abs(int(renderer.frame(2)[12, 16, 0]) - 20) <= 3


@pytest.mark.skipif(not AVIF, reason="this Pillow does not write AVIF")
def test_stills_in_those_formats(tmp_path, monkeypatch):
    picture = Image.fromarray(texture(32, 24))
    for name, floor in (("a.gif", 25), ("b.avif", 26)):
        picture.save(tmp_path / name)
        assert psnr(load_picture(tmp_path / name), texture(32, 24)) > floor
    assert len(pictures_in_folder(tmp_path).paths) == 2
    monkeypatch.setattr(Image, "open", functools.partial(Image.open, formats=("PNG",)))
    assert psnr(load_picture(tmp_path / "b.avif"), texture(32, 24)) > 26  # by FFmpeg


def test_digits_that_are_no_decimals_sort_like_letters(tmp_path):
    names = ["5\u00b23.png", "10.png", "9.png", "\u0663.png", "5a.png"]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [p.name for p in pictures_in_folder(tmp_path).paths] == sorted(names, key=natural_key)
    assert natural_key("\u0663.png")[0] == (0, 3)
