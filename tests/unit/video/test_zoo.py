"""Kinds of video files that used to be shown wrongly, made here: each as a player shows it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.unit.video.conftest import clip, moving, noise, psnr, rendered, texture
from tests.unit.video.test_sources import write
from video import Pictures, Renderer, Shot, assemble, encode, listening, open_video
from video.colour import HLG, PQ, tone_table
from video.framing import size_to_read

SKIN = (200, 120, 90)


def film(path, *part):
    source = open_video(str(path), *part)
    return assemble([Shot(source)], source.rate)


def light(srgb) -> np.ndarray:
    value = np.asarray(srgb, float) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def hdr(path, colours, curve: int, white: float):
    """Flat frames in BT.2020, 10 bit; `white` is the light that sRGB white has."""
    gamut = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    scene = white * light(colours) @ gamut.T
    if curve == HLG:
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    else:
        power = scene ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    luma = signal @ [0.2627, 0.6780, 0.0593]
    blue, red = (signal[:, 2] - luma) / 1.8814, (signal[:, 0] - luma) / 1.4746
    with av.open(str(path), "w") as container:
        options = {"crf": "1", "x265-params": "log-level=error"}
        stream = container.add_stream("libx265", rate=10, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range = 9, 1
        context.color_trc, context.color_primaries = curve, 9
        for levels in zip(64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red, strict=True):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for plane, level in zip(frame.planes, levels, strict=True):
                size = plane.buffer_size // 2
                plane.update(np.full(size, round(level), "<u2").tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("curve, white", [(HLG, 0.265), (PQ, 0.0203)])
def test_high_dynamic_range_becomes_what_an_sdr_camera_shows(tmp_path, curve, white):
    colours = [SKIN, (30, 60, 200), (128, 128, 128), (40, 160, 60), (255, 255, 255)]
    path = hdr(tmp_path / "hdr.mp4", colours, curve, white)
    got = rendered(film(path))[:, 32, 32].astype(int)
    assert np.abs(got[:4] - colours[:4]).max() <= 3
    assert (got[4] >= 238).all() and np.ptp(got[4]) <= 2  # some room is left for what is brighter
    greys = tone_table(curve).reshape(49, 49, 49, 3)[range(49), range(49), range(49)]
    assert (np.diff(greys[:, 1]) >= 0).all() and greys[-1, 1] == pytest.approx(1, abs=0.01)


def test_ten_bit_is_rounded(tmp_path):
    ramp = np.repeat(np.linspace(64, 940, 64).round().astype("<u2")[None], 64, 0)
    with av.open(str(tmp_path / "deep.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane, level in zip(frame.planes, (None, 512, 512), strict=True):
            row = np.zeros(plane.line_size // 2, "<u2")
            rows = np.tile(row, (plane.height, 1))
            rows[:, : plane.width] = ramp if level is None else level
            plane.update(rows.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = rendered(film(tmp_path / "deep.mkv"))[0, 32].astype(int)
    assert np.abs(got - ((ramp[0] - 64.0) / 876 * 255)[:, None]).max() <= 1


@pytest.mark.parametrize(
    "aspect, size", [((4, 3), (128, 48)), ((3, 4), (96, 64)), ((1, 1), (96, 48))]
)
def test_pixels_that_are_not_square_are_shown_square(tmp_path, aspect, size):
    frames = moving(3, 96, 48)
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "2"})
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    got = film(tmp_path / "wide.mp4")
    assert (got.width, got.height) == size
    smooth = texture(96 + 12, 48)[:, :96]
    wanted = np.asarray(Image.fromarray(smooth).resize(size, Image.Resampling.LANCZOS))
    assert psnr(rendered(got)[0], wanted) > 30


@pytest.mark.parametrize("size", [(64, 36), (60, 40), (40, 40), (200, 150), (97, 55)])
@pytest.mark.parametrize("fit", ["fill", "fit", "stretch"])
def test_files_are_read_in_the_size_of_the_film(tmp_path, fit, size):
    """What libswscale scales on the way is what would be made of the whole picture afterwards."""
    path = write(tmp_path / "clip.mp4", moving(3, 128, 72), tag=(1, 1))
    source = open_video(str(path))
    pictures = Pictures(rendered(assemble([Shot(source)], 24)))
    got = rendered(assemble([Shot(source, fit=fit)], 24, *size)).astype(int)
    wanted = rendered(assemble([Shot(pictures, fit=fit)], 24, *size))
    assert got.shape == wanted.shape
    assert psnr(got, wanted) > 36
    assert np.abs((got - wanted).mean((0, 1, 2))).max() < 0.5  # neither darker nor tinted
    read = size_to_read(fit, None, source.size(), size)
    assert read == size or fit == "fit" or (read[0] - size[0]) % 2 == (read[1] - size[1]) % 2 == 0


def test_interlaced_files_have_no_combs(tmp_path):
    """Two fields of a bar that travels sideways: woven they are a comb, shown they are not."""
    with av.open(str(tmp_path / "fields.mkv"), "w") as container:
        options = {"flags": "+ildct+ilme", "b": "8000000"}
        stream = container.add_stream("mpeg2video", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(12):
            picture = np.full((64, 96, 3), 40, np.uint8)
            for field in range(2):
                left = 8 + 6 * n + 3 * field
                picture[field::2, left : left + 12] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            graph = av.filter.Graph()
            shape = {"width": 96, "height": 64, "format": frame.format}
            source = graph.add_buffer(**shape, time_base=Fraction(1, 25))
            sink = graph.add("buffersink")
            flag = graph.add("setfield", "tff")
            source.link_to(flag)
            flag.link_to(sink)
            graph.configure()
            frame.pts, frame.time_base = n, Fraction(1, 25)
            graph.push(frame)
            container.mux(stream.encode(graph.pull()))
        container.mux(stream.encode(None))
    got = rendered(film(tmp_path / "fields.mkv")).astype(int)
    assert len(got) == 12
    combs = np.abs(got[3:9, 1:-1] * 2 - got[3:9, :-2] - got[3:9, 2:]).mean()
    assert combs < 3  # 17 woven


@pytest.mark.parametrize(
    "suffix, codec, pixels",
    [
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mov", "png", "rgba"),
    ],
)
def test_alpha_is_laid_over_black(tmp_path, suffix, codec, pixels):
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 0] = 200
    picture[:, 32:, 3] = 255
    path = tmp_path / f"clear.{suffix}"
    with av.open(str(path), "w") as container:
        options = {"crf": "4", "b": "0"} if "vp9" in codec else {}
        if codec == "prores_ks":
            options = {"profile": "4", "alpha_bits": "16"}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode(None))
    got = rendered(film(path)).astype(int)
    assert got.shape[0] == 3
    assert got[:, :, 4:28].max() <= 3  # transparent red is black
    assert np.abs(got[:, 8:56, 36:60] - (200, 0, 0)).max() <= 8


def test_variable_rates_lose_no_frame(tmp_path):
    """A screen recording: nothing happens, then sixty frames a second for a moment."""
    times = sorted({0, 1000, 2500, *(3000 + round(n * 1000 / 60) for n in range(40)), 6000})
    frames = np.stack([np.full((32, 32, 3), 5 * n, np.uint8) for n in range(len(times))])
    path = write(tmp_path / "screen.mkv", frames, times=times)
    source = open_video(str(path))
    assert source.rate == 60
    levels = [int(p[16, 16, 1]) for p in rendered(film(path))]
    shown = [level for level, before in zip(levels, [-9, *levels], strict=False) if level != before]
    assert len(shown) == len(times)


def test_jitter_of_a_phone_neither_repeats_nor_drops(tmp_path):
    rng = np.random.default_rng(1)
    times = [round(n * 1000 / 30 + rng.uniform(-7, 7)) for n in range(60)]
    times = [time - times[0] for time in times]
    frames = np.stack([np.full((32, 32, 3), 4 * n, np.uint8) for n in range(60)])
    source = open_video(str(write(tmp_path / "phone.mkv", frames, times=times)))
    got = rendered(assemble([Shot(source)], 30))[:, 16, 16, 1].astype(int)
    assert abs(len(got) - 60) <= 1
    assert np.abs(got[:59] - 4 * np.arange(59)).max() <= 2


@pytest.mark.parametrize("suffix", ["ts", "mkv", "flv", "avi", "h264"])
def test_long_groups_and_missing_indexes_lead_to_the_right_frame(tmp_path, suffix):
    frames = np.stack([np.full((32, 32, 3), n // 2, np.uint8) for n in range(0, 500, 2)])
    options = {"crf": "0", "g": "200", "bf": "0" if suffix in ("avi", "h264") else "2"}
    path = write(tmp_path / f"long.{suffix}", frames, rate=25, options=options)
    if suffix == "mkv":  # as written by a recorder that was killed: no index
        data = path.read_bytes()
        path.write_bytes(data.replace(bytes.fromhex("1c53bb6b"), bytes.fromhex("1c53bb6c")))
    for start in (Fraction(6), Fraction(17, 2), Fraction(42, 10)):
        with Renderer(film(path, start, Fraction(1))) as renderer:
            got = [int(renderer.frame(n)[16, 16, 1]) for n in (0, 1, 20, 5)]
        first = int(start * 25)
        assert np.abs(np.array(got) - [first, first + 1, first + 20, first + 5]).max() <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_that_is_cut_off_is_said_and_does_not_freeze(tmp_path, suffix):
    pictures = np.stack([noise(64, 64, n) for n in range(96)])
    path = tmp_path / f"cut.{suffix}"
    encode(clip(pictures), path, "h264" if suffix == "mp4" else "ffv1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with listening() as notes:
        got = film(path)
    assert len(notes) == 1 and f"cut.{suffix} is cut off: of 4.00 s only the first 2." in notes[0]
    assert 50 <= got.frame_count <= 62
    frames = rendered(got)
    assert len({frame.tobytes() for frame in frames}) >= got.frame_count - 4
    with listening() as notes:
        write(tmp_path / "whole.mp4", moving(30))
        film(tmp_path / "whole.mp4")
    assert notes == []
