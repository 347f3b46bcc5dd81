"""What was encoded, decoded again: size, rate, times, colours, tags, metadata, and no litter."""

import io
import json
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.video.conftest import (
    clip,
    moving,
    noise,
    psnr,
    read_video,
    rendered,
    rgb_of,
    still,
    texture,
)
from video import (
    PRESETS,
    Shot,
    VideoError,
    assemble,
    camera_move,
    encode,
    make_transition,
    preset_named,
    with_quality,
)

FLOORS = {
    "h264": 36,
    "h264_draft": 30,
    "h264_best": 40,
    "h265": 34,
    "av1": 32,
    "vp9": 32,
    "prores": 42,
}


def saved(folder: Path, film, preset="h264", **more) -> Path:
    path = folder / f"film.{preset_named(preset).extension}"
    encode(film, path, preset, **more)
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_write_what_they_promise(tmp_path, preset):
    frames = moving(9, 96, 64)
    path = saved(tmp_path, clip(frames, 25), preset)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        rgb = preset == "ffv1"
        assert (context.width, context.height) == (96, 64)
        assert context.pix_fmt == PRESETS[preset].pixel_format
        assert stream.average_rate == 25
        assert context.colorspace == (0 if rgb else 1)
        # ProRes does not say its range, it has only one; older FFmpeg reports it as unknown.
        assert context.color_range in ((2,) if rgb else (0, 1) if preset == "prores" else (1,))
        assert context.color_primaries == 1
        assert context.color_trc == (13 if rgb else 1)
        decoded = [rgb_of(frame) for frame in container.decode(stream)]
    assert len(decoded) == 9
    if rgb:
        assert np.array_equal(np.stack(decoded), frames)
    else:
        assert psnr(np.stack(decoded), frames) > FLOORS[preset]


@pytest.mark.parametrize("fps", [24, 23.976, 29.97, 59.94, 12.5, 7.25, 1, 120, "1001/100"])
def test_times_in_mp4_are_exact(tmp_path, fps):
    film = clip(moving(13), fps)
    _, times = read_video(saved(tmp_path, film, "h264_draft"))
    assert times == [n / film.fps for n in range(13)]
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == film.fps
        assert stream.frames == 13
        assert stream.duration * Fraction(stream.time_base) == 13 / film.fps


def test_flat_colours_survive_within_two_levels(tmp_path):
    """Skin, primaries, greys: two levels is what 8 bit luma and chroma can do."""
    colours = [(200, 120, 90), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    colours += [(n, n, n) for n in range(1, 255, 23)] + [(17, 130, 201), (250, 240, 12)]
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    for preset in ("h264", "h265", "prores"):
        decoded, _ = read_video(saved(tmp_path, clip(frames), preset))
        assert np.abs(decoded[:, 16, 16].astype(int) - colours).max() <= 2, preset


def test_luma_is_rounded_not_cut(tmp_path):
    """The mean error of a grey ramp is nil; cutting would darken it by half a level."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8).repeat(2)[None, :, None], 64, 0).repeat(3, 2)
    path = tmp_path / "ramp.mp4"
    encode(clip(ramp[None]), path, with_quality(preset_named("h264"), 0))
    with av.open(str(path)) as container:
        plane = next(container.decode(video=0)).planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[0, :512:2]
    exact = 16 + 219 * np.arange(256) / 255
    assert np.abs(luma - exact).max() <= 0.51
    assert abs((luma - exact).mean()) < 0.02


@pytest.mark.parametrize("size", [(95, 63), (96, 63), (95, 64), (33, 35)])
@pytest.mark.parametrize("preset", ["h264", "prores", "vp9", "ffv1"])
def test_odd_sizes_are_completed_by_their_last_row_and_column(tmp_path, size, preset):
    frames = moving(3, *size)
    decoded, _ = read_video(saved(tmp_path, clip(frames), preset))
    if preset == "ffv1":
        assert np.array_equal(decoded, frames)
        return
    padded = np.pad(frames, ((0, 0), (0, size[1] % 2), (0, size[0] % 2), (0, 0)), mode="edge")
    assert decoded.shape == padded.shape
    assert psnr(decoded, padded) > 30


def test_holds_are_converted_once_and_shown_always(tmp_path, monkeypatch):
    from av.video import reformatter

    conversions = []
    original = reformatter.VideoReformatter

    class Counting:
        def __init__(self):
            self.real = original()

        def reformat(self, *args, **kwargs):
            conversions.append(1)
            return self.real.reformat(*args, **kwargs)

    monkeypatch.setattr(reformatter, "VideoReformatter", Counting)
    colours = (10, 90, 170, 250)
    shots = [Shot(still(np.full((32, 32, 3), c, np.uint8)), Fraction(1)) for c in colours]
    decoded, _ = read_video(saved(tmp_path, assemble(shots, 24)))
    assert len(conversions) == 4
    assert np.abs(decoded[:, 16, 16, 0].astype(int) - np.repeat(colours, 24)).max() <= 2


def test_a_film_with_everything_equals_its_frames(tmp_path):
    shots = [
        Shot(still(texture(128, 72, 1)), Fraction(1), camera_move("zoom_in", 0.3)),
        Shot(still(texture(72, 128, 2)), Fraction(1), transition=make_transition("crossfade", 0.4)),
        Shot(
            still(texture(256, 72, 3)),
            Fraction(1),
            camera_move("pan_left", 0.0),
            transition=make_transition("wipe_up", 0.25, "smooth", 0.2),
        ),
    ]
    film = assemble(shots, 23.976)
    decoded, _ = read_video(saved(tmp_path, film))
    expected = rendered(film)
    assert decoded.shape == expected.shape
    assert min(psnr(a, b) for a, b in zip(decoded, expected, strict=True)) > 33


def boxes(path: Path) -> list[tuple[str, int]]:
    """Top-level boxes of an MP4 file and where they begin."""
    data, at, found = path.read_bytes(), 0, []
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind.decode("latin1"), at))
        at += size or len(data)
    return found


def test_mp4_starts_fast_and_says_its_colours_in_the_container(tmp_path):
    path = saved(tmp_path, clip(moving(9)), metadata={"workflow": {"a": "b" * 100_000}})
    order = [kind for kind, _ in boxes(path)]
    assert order.index("moov") < order.index("mdat")
    data = path.read_bytes()
    at = data.index(b"colr")
    assert data[at + 4 : at + 15] == b"nclx" + struct.pack(">HHHB", 1, 1, 1, 0)
    assert data.index(b'{"a": "bbb') < 64 * 2**20  # as far as the page looks for it


@pytest.mark.parametrize("preset", ["h264", "prores", "vp9", "ffv1"])
def test_metadata_comes_back(tmp_path, preset):
    metadata = {
        "workflow": {"nodes": [{"id": 1, "title": "caf\u00e9"}]},
        "prompt": {"1": {}},
        "note": "plain text",
    }
    path = saved(tmp_path, clip(moving(3)), preset, metadata=metadata)
    with av.open(str(path)) as container:
        read = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(read["workflow"]) == metadata["workflow"]
    assert json.loads(read["prompt"]) == metadata["prompt"]
    assert read["note"] == "plain text"


def test_progress_counts_every_frame(tmp_path):
    calls = []
    saved(tmp_path, clip(moving(7)), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 7) for n in range(1, 8)]


class Interrupt(BaseException):
    """Like ComfyUI's: no Exception."""


@pytest.mark.parametrize("at", [1, 20, 48])
def test_an_interrupt_leaves_no_file_and_no_thread(tmp_path, at):
    import threading

    before = set(threading.enumerate())

    def stop(done, total):
        if done == at:
            raise Interrupt

    (tmp_path / "film.mp4").write_text("an older film")
    with pytest.raises(Interrupt):
        saved(tmp_path, clip(moving(48)), progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_text() == "an older film"
    assert {t for t in threading.enumerate() if t.is_alive()} <= before


def test_an_error_while_rendering_arrives_and_leaves_no_file(tmp_path):
    def broken(picture, moment):
        if moment.index == 5:
            raise VideoError("frame 5 is damaged")
        return picture

    film = clip(moving(12))
    film = assemble([replace(film.shots[0], effects=(broken,))], 24)
    with pytest.raises(VideoError, match="frame 5 is damaged"):
        saved(tmp_path, film)
    assert list(tmp_path.iterdir()) == []


def test_memory_as_target():
    film = clip(moving(5))
    for preset in ("h264", "vp9"):
        buffer = io.BytesIO()
        encode(film, buffer, preset)
        buffer.seek(0)
        with av.open(buffer) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_quality_of_its_own(tmp_path):
    film = clip(np.stack([noise(64, 64, n) for n in range(6)]))
    sizes = []
    for crf in (5, 35):
        path = tmp_path / f"{crf}.mp4"
        encode(film, path, with_quality(preset_named("h264"), crf))
        sizes.append(path.stat().st_size)
    assert sizes[0] > 3 * sizes[1]


@pytest.mark.parametrize(
    "name, crf, depth, message",
    [
        ("h266", None, None, "Unknown preset 'h266': use one of h264"),
        ("prores", 20, None, "Preset 'prores' has no crf"),
        ("h264", 52, None, "crf 52 is out of range: use 0 to 51"),
        ("vp9", None, 10, "Preset 'vp9' cannot write 10 bit"),
    ],
)
def test_bad_settings_are_named(name, crf, depth, message):
    with pytest.raises(VideoError, match=message):
        with_quality(preset_named(name), crf, depth)


def test_what_the_encoder_refuses_is_said_before_any_frame_is_made(tmp_path):
    def never(picture, moment):
        raise AssertionError("a frame was made")

    film = assemble([replace(clip(moving(2)).shots[0], effects=(never,))], 24, 16384, 16384)
    missing = replace(preset_named("h264"), codec="libx266")
    wrong = replace(preset_named("h264"), pixel_format="yuva420p")
    with pytest.raises(VideoError, match="no encoder .*: choose another preset"):
        encode(film, tmp_path / "film.mp4", missing)
    with pytest.raises(VideoError, match="cannot encode 16384x16384 at 24 fps"):
        encode(film, tmp_path / "film.mp4", wrong)
    assert list(tmp_path.iterdir()) == []
