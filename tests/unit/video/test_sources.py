"""Pictures in: quantised once and rounded, read lazily, in the right order and colours."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.video.conftest import clip, moving, noise, psnr, rendered, texture
from video import (
    Shot,
    TensorPictures,
    VideoError,
    assemble,
    encode,
    open_video,
    pictures_from_tensor,
    pictures_in_folder,
)
from video.sources import load_picture, quantised


def film_from(source, fps=24):
    return assemble([Shot(source)], fps)


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_are_rounded_to_the_nearest_level(dtype):
    image = torch.rand(131, 57, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = (image.double() * 255).numpy()
    assert np.abs(quantised(image) - expected).max() <= 0.5 + 1e-4


def test_out_of_range_and_broken_values_are_tamed():
    image = torch.tensor([-3.0, 0.0, 1.0, 7.0, float("nan"), float("inf"), -float("inf")])
    got = quantised(image.reshape(1, 7, 1).expand(1, 7, 3))
    assert got[0, :, 0].tolist() == [0, 0, 255, 255, 0, 255, 0]


def test_channels():
    grey = torch.full((4, 4, 1), 0.5)
    clear = torch.cat((torch.ones(4, 4, 3), torch.full((4, 4, 1), 0.25)), dim=2)
    assert (quantised(grey) == 128).all()
    assert (quantised(clear) == 64).all()


def test_batches_in_memory_and_by_reference_show_the_same():
    batch = torch.rand(5, 20, 30, 3)
    held, lazy = pictures_from_tensor(batch), TensorPictures(batch)
    assert held.pictures.nbytes * 4 == batch.numel() * 4
    assert np.array_equal(rendered(film_from(held)), rendered(film_from(lazy)))


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 2), (0, 4, 4, 3), (1, 0, 4, 3)])
def test_what_is_no_batch_of_pictures_is_refused(shape):
    with pytest.raises(VideoError, match="Expected images"):
        pictures_from_tensor(torch.zeros(shape))


# --- folders --------------------------------------------------------------------------------------


def test_folders_are_in_natural_order(tmp_path):
    names = ["frame10.png", "frame9.png", "Frame2.PNG", "frame1.png", "take 2 frame 1.png"]
    for level, name in enumerate(names):
        Image.new("RGB", (8, 6), (level,) * 3).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "._frame3.png").write_text("left by a file manager")
    source = pictures_in_folder(tmp_path)
    assert [p.name for p in source.paths] == [names[3], names[2], names[1], names[0], names[4]]
    assert source.size() == (8, 6)
    assert rendered(film_from(source))[:, 0, 0, 0].tolist() == [3, 2, 1, 0, 4]


def test_only_one_picture_is_in_memory(tmp_path, monkeypatch):
    import video.sources

    for n in range(3):
        Image.new("RGB", (8, 6), (n,) * 3).save(tmp_path / f"{n}.png")
    loaded = []
    load = video.sources.load_picture
    monkeypatch.setattr(
        video.sources, "load_picture", lambda path: loaded.append(path.name) or load(path)
    )
    film = assemble([Shot(pictures_in_folder(tmp_path), Fraction(1))], 24)
    assert loaded == []
    rendered(film)
    assert loaded == ["0.png", "1.png", "2.png"]  # each read once, though each shows 8 times


def test_kinds_of_picture_files(tmp_path):
    base = texture(12, 10)
    picture = Image.fromarray(base)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    Image.fromarray(np.ascontiguousarray(np.rot90(base))).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(base[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    half = picture.copy()
    half.putalpha(128)
    half.save(tmp_path / "alpha.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.array_equal(load_picture(tmp_path / "turned.png"), base)
    assert np.array_equal(load_picture(tmp_path / "deep.png"), base[..., :1].repeat(3, 2))
    assert np.abs(load_picture(tmp_path / "alpha.png") - base * (128 / 255)).max() <= 1
    assert psnr(load_picture(tmp_path / "palette.png"), base) > 30
    assert psnr(load_picture(tmp_path / "cmyk.tif"), base) > 40
    assert pictures_in_folder(tmp_path).size() == (12, 10)


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(VideoError, match="Folder 'nowhere' does not exist"):
        pictures_in_folder(tmp_path / "nowhere")
    with pytest.raises(VideoError, match=f"No pictures in folder '{tmp_path.name}': put frames"):
        pictures_in_folder(tmp_path)
    (tmp_path / "fake.png").write_text("no picture")
    with pytest.raises(VideoError, match="fake.png is not a readable picture"):
        pictures_in_folder(tmp_path)
    (tmp_path / "fake.png").unlink()
    Image.fromarray(noise(64, 64)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    source = pictures_in_folder(tmp_path)
    with pytest.raises(VideoError, match="cut.png is damaged: replace or remove it"):
        rendered(film_from(source))


# --- video files ----------------------------------------------------------------------------------


def write(path, frames, *, codec="libx264", rate=24, times=None, tag=None, options=None, rgb=None):
    """A video file made without our encoder; `tag` is (matrix, range) or None for untagged."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = rgb or "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if rgb is None:
                matrix, span = tag or (5, 1)
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=matrix,
                    src_color_range=2,
                    dst_color_range=span,
                    interpolation=0x2 | 0x40000 | 0x4000,
                )
                if tag:
                    for target in (stream.codec_context, frame):
                        target.colorspace, target.color_range = tag
                else:
                    frame.colorspace = 2
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            else:
                frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("tag", [None, (1, 1), (1, 2), (5, 1), (6, 2)])
def test_files_are_read_by_their_own_colour_tags(tmp_path, tag):
    """Flat patches of skin and of pure colours come back within the steps of 8 bit luma/chroma."""
    colours = [(200, 120, 90), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)]
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    path = write(tmp_path / "tagged.mp4", frames, tag=tag)
    got = rendered(film_from(open_video(str(path))))
    assert np.abs(got[:, 16, 16].astype(int) - colours).max() <= 2


@pytest.mark.parametrize(
    "suffix, codec", [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("mkv", "ffv1"), ("avi", "mjpeg")]
)
@pytest.mark.parametrize("rate", [24, Fraction(30000, 1001), Fraction(25, 2)])
def test_every_frame_of_a_file_shows_once(tmp_path, suffix, codec, rate):
    """Also where the container rounds times to milliseconds."""
    frames = np.stack([np.full((32, 32, 3), 8 * n, np.uint8) for n in range(31)])
    options = {"crf": "4", "b": "0"} if codec == "libvpx-vp9" else {}
    pixels = {"ffv1": "bgr0", "mjpeg": "yuvj420p"}.get(codec)
    path = write(
        tmp_path / f"all.{suffix}", frames, codec=codec, rate=rate, options=options, rgb=pixels
    )
    got = rendered(assemble([Shot(open_video(str(path)))], rate))[:, 16, 16, 1].astype(int)
    assert np.abs(got - 8 * np.arange(31)).max() <= 3


def test_any_order_gives_the_same_frames(tmp_path):
    """Seeking with B-frames and long groups of pictures, forwards and backwards."""
    frames = np.stack([np.full((32, 32, 3), n, np.uint8) for n in range(250)])
    path = write(tmp_path / "long.mp4", frames, rate=10, options={"crf": "0", "g": "60"})
    from video import Renderer

    film = film_from(open_video(str(path)), 10)
    order = [0, 1, 200, 199, 57, 58, 61, 0, 249, 120, 3]
    with Renderer(film) as renderer:
        levels = [int(renderer.frame(n)[16, 16, 1]) for n in order]
    assert np.abs(np.array(levels) - order).max() <= 1


def test_parts_of_a_file(tmp_path):
    frames = np.stack([np.full((32, 32, 3), n, np.uint8) for n in range(0, 240, 2)])
    path = write(tmp_path / "long.mp4", frames, rate=12)  # ten seconds
    part = open_video(str(path), Fraction(6), Fraction(2))
    got = rendered(film_from(part, 12))[:, 16, 16, 1].astype(int)
    assert len(got) == 24
    assert np.abs(got - np.arange(144, 192, 2)).max() <= 1
    rest = open_video(str(path), Fraction(9))
    assert rest.duration == 1
    longer = assemble([Shot(part, Fraction(3))], 12)  # holds its last frame, not the file's next
    assert np.abs(rendered(longer)[24:, 16, 16, 1].astype(int) - 190).max() <= 1
    with pytest.raises(VideoError, match="long.mp4 lasts 10 s: start before that"):
        open_video(str(path), Fraction(10))


def test_another_rate_repeats_and_drops_frames(tmp_path):
    frames = np.stack([np.full((32, 32, 3), 5 * n, np.uint8) for n in range(24)])
    source = open_video(str(write(tmp_path / "a.mp4", frames, rate=24)))
    faster = rendered(film_from(source, 48))[:, 16, 16, 1].astype(int)
    slower = rendered(film_from(source, 8))[:, 16, 16, 1].astype(int)
    assert np.abs(faster - 5 * (np.arange(48) // 2)).max() <= 2
    assert np.abs(slower - 5 * np.arange(0, 24, 3)).max() <= 2


def test_variable_frame_times_are_kept(tmp_path):
    frames = np.stack([np.full((32, 32, 3), 40 * n, np.uint8) for n in range(5)])
    path = write(tmp_path / "vfr.mkv", frames, times=[0, 100, 500, 600, 900])
    shot = Shot(open_video(str(path)), Fraction(1))
    got = rendered(assemble([shot], 10))[:, 16, 16, 1].astype(int)
    assert np.abs(got - [0, 40, 40, 40, 40, 80, 120, 120, 120, 160]).max() <= 2


@pytest.mark.parametrize("sign, turn", [(1, 1), (-1, -1)])
def test_turned_files_stand_upright(tmp_path, sign, turn):
    """As phones write them: stored lying, with a matrix in the track header that turns them."""
    frames = moving(3, 64, 48)
    lying = np.ascontiguousarray(np.rot90(frames, turn, axes=(1, 2)))
    path = write(tmp_path / "phone.mp4", lying, tag=(1, 1))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = sign * 0x10000
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    source = open_video(str(path))
    assert source.size() == (64, 48)
    assert psnr(rendered(film_from(source)), frames) > 30


def test_files_in_memory(tmp_path):
    buffer = io.BytesIO()
    film = clip(moving(6))
    encode(film, buffer, "ffv1")
    source = open_video(buffer.getvalue())
    assert np.array_equal(rendered(film_from(source)), moving(6))


def test_bad_files_are_named(tmp_path):
    (tmp_path / "fake.mp4").write_bytes(b"no video" * 100)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for name, message in (
        ("missing.mp4", "missing.mp4 cannot be read as a video"),
        ("fake.mp4", "fake.mp4 cannot be read as a video"),
        ("sound.wav", "sound.wav has no video in it"),
    ):
        with pytest.raises(VideoError, match=message):
            open_video(str(tmp_path / name))


def test_damaged_files_play_as_far_as_they_go(tmp_path):
    path = tmp_path / "cut.mkv"
    write(path, np.stack([noise(64, 64, n) for n in range(20)]), codec="ffv1", rgb="bgr0")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_video(str(path))
    got = rendered(assemble([Shot(source, Fraction(20, 24))], 24))
    assert len(got) == 20
    assert np.array_equal(got[3], noise(64, 64, 3))
