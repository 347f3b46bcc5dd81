"""LazyVideo is what core expects of a VIDEO: core's own classes and nodes are the oracle."""

import importlib
import io
import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

WIDTH, HEIGHT, FRAMES = 96, 64, 30


@pytest.fixture(scope="module")
def house(comfy, pack) -> SimpleNamespace:
    """Our modules as ComfyUI loaded them, and core's."""
    from comfy_api.latest import Input, InputImpl, Types

    name = pack.__name__
    return SimpleNamespace(
        lazy=importlib.import_module(f"{name}.nodes.runtime.lazy_video"),
        films=importlib.import_module(f"{name}.nodes.runtime.films"),
        video=importlib.import_module(f"{name}.video"),
        nodes=importlib.import_module(f"{name}.nodes.video"),
        Input=Input,
        InputImpl=InputImpl,
        Types=Types,
    )


def moving_batch(count: int = FRAMES) -> torch.Tensor:
    """A smooth picture that moves, so that every frame differs and compresses well."""
    y = torch.linspace(0, 1, HEIGHT)[:, None]
    x = torch.linspace(0, 1, WIDTH)[None, :]
    frames = []
    for t in torch.linspace(0, 1, count):
        red = 0.5 + 0.4 * torch.sin(6 * (x + t)) * torch.cos(4 * y)
        frames.append(torch.stack((red, (x + y) / 2 + 0 * t, 1 - y * t + 0 * x), dim=-1))
    return torch.stack(frames).clamp(0, 1)


def tone(seconds: float, rate: int = 44100, channels: int = 2) -> dict:
    time = torch.arange(int(seconds * rate)) / rate
    wave = 0.4 * torch.sin(2 * torch.pi * 440 * time)
    return {"waveform": wave.repeat(1, channels, 1), "sample_rate": rate}


@pytest.fixture
def lazy(house):
    """30 frames at 24000/1001 fps with a tone."""
    video = house.video
    source = video.pictures_from_tensor(moving_batch())
    sound = house.films.sound_of_audio(tone(5))
    return house.lazy.LazyVideo(video.assemble([video.Shot(source)], 23.976, sound=sound))


def test_answers_without_making_a_frame(house, lazy, monkeypatch):
    def no_frames(*_):
        raise AssertionError("a frame was made")

    monkeypatch.setattr(house.video.Renderer, "frame", no_frames)
    assert isinstance(lazy, house.Input.Video)
    assert lazy.get_dimensions() == (WIDTH, HEIGHT)
    assert lazy.get_frame_count() == FRAMES
    assert lazy.get_frame_rate() == Fraction(24000, 1001)
    assert lazy.get_duration() == pytest.approx(FRAMES * 1001 / 24000)
    assert lazy.get_bit_depth() == 8
    assert lazy.get_container_format() == "mp4"
    assert lazy.get_color_space() == "auto"
    assert lazy.get_active_trim_window() == (0.0, 0.0)
    assert lazy.as_trimmed(0.5, 0.5).get_frame_count() == 12


def test_components_are_the_pictures_and_the_sound(lazy):
    components = lazy.get_components()
    assert torch.equal(components.images, (moving_batch() * 255).round() / 255)
    assert components.frame_rate == Fraction(24000, 1001)
    waveform = components.audio["waveform"]
    expected = round(FRAMES * 1001 / 24000 * 44100)
    assert waveform.shape == (1, 2, expected)
    assert torch.equal(waveform, tone(5)["waveform"][..., :expected])


def test_core_reads_what_we_save(house, lazy, tmp_path):
    path = tmp_path / "film.mp4"
    lazy.save_to(str(path), metadata={"workflow": {"nodes": [1]}, "prompt": {"1": {}}})
    core = house.InputImpl.VideoFromFile(str(path))
    assert core.get_dimensions() == (WIDTH, HEIGHT)
    assert core.get_frame_count() == FRAMES
    assert core.get_frame_rate() == Fraction(24000, 1001)
    assert core.get_duration() == pytest.approx(lazy.get_duration(), abs=1e-3)
    read = core.get_components()
    error = (read.images - lazy.get_components().images).abs()
    assert read.images.shape[0] == FRAMES
    assert error.mean() < 2 / 255  # 8 bit luma and halved chroma
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["workflow"]) == {"nodes": [1]}
        assert json.loads(container.metadata["prompt"]) == {"1": {}}


@pytest.mark.parametrize("start", [None, 0, 0.25, -0.5, -100.0])
@pytest.mark.parametrize("duration", [None, 0, 0.3, 100.0])
def test_trimming_is_a_slice_of_frames(lazy, start, duration):
    trimmed = lazy.as_trimmed(start, duration)
    first = round((start or 0) * 24000 / 1001)
    first = max(0, FRAMES + first) if first < 0 else first
    count = round(duration * 24000 / 1001) if duration else FRAMES
    expected = lazy.get_components().images[first : first + count]
    assert trimmed.get_frame_count() == len(expected)
    assert torch.equal(trimmed.get_components().images, expected)


def test_trimming_trims_the_sound_and_nests(lazy):
    twice = lazy.as_trimmed(0.25, 0.8).as_trimmed(0.25, 0.3)
    whole = lazy.get_components().audio["waveform"]
    got = twice.get_components().audio["waveform"]
    start = round(12 * 1001 / 24000 * 44100)  # 6 frames and 6 frames
    assert twice.get_frame_count() == 7
    assert torch.equal(got, whole[..., start : start + got.shape[-1]])
    assert got.shape[-1] == round(7 * 1001 / 24000 * 44100)


def test_trimming_refuses_what_core_refuses(house, lazy, tmp_path):
    path = tmp_path / "film.mp4"
    lazy.save_to(str(path))
    core = house.InputImpl.VideoFromFile(str(path))
    for video in (lazy, core):
        assert video.as_trimmed(0.5, 100.0, strict_duration=True) is None
        assert video.as_trimmed(0.5, 0.25, strict_duration=True) is not None
    assert lazy.as_trimmed(100.0, 0) is None


@pytest.mark.parametrize("as_enum", [True, False])
def test_formats_come_as_text_or_enum_and_later_keywords_pass(house, lazy, tmp_path, as_enum):
    path = tmp_path / f"{as_enum}.mp4"
    container, codec = house.Types.VideoContainer.MP4, house.Types.VideoCodec.H264
    lazy.save_to(
        str(path),
        format=container if as_enum else "mp4",
        codec=codec if as_enum else "h264",
        metadata=None,
        crf=30.0,
        bit_depth=8,
        color_space="auto",
        something_new=None,
    )
    assert house.InputImpl.VideoFromFile(str(path)).get_frame_count() == FRAMES


def test_ten_bit_and_other_containers(house, lazy, tmp_path):
    lazy.save_to(str(tmp_path / "deep.mp4"), bit_depth=10)
    lazy.save_to(str(tmp_path / "film.mkv"))
    lazy.save_to(str(tmp_path / "film.webm"), format="webm", codec="vp9")
    for name, codec, pixels in (
        ("deep.mp4", "h264", "yuv420p10le"),
        ("film.mkv", "h264", "yuv420p"),
        ("film.webm", "vp9", "yuv420p"),
    ):
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == (codec, pixels)
            assert sum(1 for _ in container.decode(stream)) == FRAMES
    assert house.InputImpl.VideoFromFile(str(tmp_path / "deep.mp4")).get_bit_depth() == 10


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"format": "avi"}, "Cannot write 'avi' files"),
        ({"codec": "mpeg2"}, "Cannot write codec 'mpeg2'"),
        ({"crf": 99.0}, "crf 99 is out of range"),
        ({"color_space": "bt2020-pq"}, "Color space 'bt2020-pq' is not supported"),
        ({"format": "webm", "codec": "h264"}, "cannot encode"),
    ],
)
def test_what_we_cannot_write_is_refused_and_leaves_nothing(lazy, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        lazy.save_to(str(tmp_path / "film"), **settings)
    assert list(tmp_path.iterdir()) == []


def test_saving_into_memory(house, lazy):
    buffer = io.BytesIO()
    lazy.save_to(buffer, format=house.Types.VideoContainer.MP4, codec=house.Types.VideoCodec.H264)
    buffer.seek(0)
    assert house.InputImpl.VideoFromFile(buffer).get_frame_count() == FRAMES


def test_stream_source_is_one_temporary_file(house, comfy, lazy):
    source = lazy.get_stream_source()
    assert source == lazy.get_stream_source()
    assert source.startswith(comfy.folder_paths.get_temp_directory())
    with av.open(source) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_the_same_save_twice_is_a_copy(house, lazy, tmp_path, monkeypatch):
    first, second, third = (tmp_path / f"{n}.mp4" for n in (1, 2, 3))
    lazy.save_to(str(first), metadata={"prompt": {}})
    monkeypatch.setattr(house.lazy, "encode", None)  # calling it would fail
    lazy.save_to(str(second), metadata={"prompt": {}})
    assert second.read_bytes() == first.read_bytes()
    first.write_bytes(b"changed by somebody")
    second.unlink()
    with pytest.raises(TypeError):  # nothing left to copy: it has to encode
        lazy.save_to(str(third), metadata={"prompt": {}})
    assert not third.exists()


@pytest.mark.parametrize("name", ["film.mp4", "film.webm", "film.mov"])
def test_other_metadata_only_copies_packets(house, lazy, tmp_path, monkeypatch, name):
    first, second = tmp_path / name, tmp_path / f"again_{name}"
    lazy.save_to(str(first), metadata={"prompt": {"1": "first"}})
    monkeypatch.setattr(house.lazy, "encode", None)
    lazy.save_to(str(second), metadata={"prompt": {"2": "second"}, "workflow": {}})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"again_{name}"])
    contents = []
    for path in (first, second):
        with av.open(str(path)) as container:
            metadata = {key.lower(): value for key, value in container.metadata.items()}
            facts = [
                (s.codec_context.name, s.average_rate, s.codec_context.colorspace)
                if s.type == "video"
                else (s.codec_context.name, s.codec_context.sample_rate)
                for s in container.streams
            ]
            frames = [
                (frame.pts, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)
            ]
            container.seek(0)
            sound = [
                (frame.pts, frame.to_ndarray().tobytes()) for frame in container.decode(audio=0)
            ]
        contents.append((facts, frames, sound))
    assert contents[0] == contents[1]
    assert len(contents[0][1]) == FRAMES and contents[0][2]
    assert json.loads(metadata["prompt"]) == {"2": "second"}
    assert json.loads(metadata["workflow"]) == {}


def test_an_image_that_does_not_fit_into_memory_is_refused(house):
    video = house.video
    still = video.pictures_from_tensor(torch.zeros(1, 64, 64, 3))
    shot = video.Shot(still, duration=Fraction(3600 * 20))
    lazy = house.lazy.LazyVideo(video.assemble([shot], 240, 8192, 8192))
    with pytest.raises(ValueError, match=r"17280000 frames of 8192x8192 .* trim the film"):
        lazy.get_components()


def test_shots_of_core_videos(house, tmp_path):
    """A file with a trim window, and components in memory, play as core itself plays them."""
    batch = moving_batch()
    components = house.Types.VideoComponents(
        images=batch, frame_rate=Fraction(12), audio=tone(2.5, 48000, 1)
    )
    memory = house.InputImpl.VideoFromComponents(components)
    film = house.films.film_of_video(memory)
    assert (film.fps, film.frame_count) == (12, FRAMES)
    lazy = house.lazy.LazyVideo(film)
    assert torch.equal(lazy.get_components().images, (batch * 255).round() / 255)
    assert torch.equal(lazy.get_components().audio["waveform"], tone(2.5, 48000, 1)["waveform"])

    path = tmp_path / "core.mp4"
    memory.save_to(str(path))  # 30 frames at 12 fps
    for window in ({}, {"start_time": 0.5}, {"start_time": 0.5, "duration": 1.0}):
        part = house.InputImpl.VideoFromFile(str(path), **window)
        ours = house.lazy.LazyVideo(house.films.film_of_video(part))
        expected = part.get_components()
        got = ours.get_components()
        assert ours.get_frame_rate() == 12
        assert len(got.images) == len(expected.images)
        # Core decodes untagged files in float, we in 8 bit; the matrix is the same.
        assert (got.images - expected.images).abs().mean() < 1 / 255
        assert (got.images - expected.images).abs().max() < 6 / 255
        samples = expected.audio["waveform"].shape[-1]
        difference = (
            got.audio["waveform"][..., :samples]
            - expected.audio["waveform"][..., : got.audio["waveform"].shape[-1]]
        )
        assert abs(got.audio["waveform"].shape[-1] - samples) <= 1024
        assert difference.abs().max() < 2e-3


def test_a_film_in_a_film_is_not_encoded(house, lazy):
    video = house.video
    outer = video.assemble([house.films.shot_of_video(lazy)], 23.976)
    nested = house.lazy.LazyVideo(outer)
    assert torch.equal(nested.get_components().images, lazy.get_components().images)
    whole, again = (v.get_components().audio["waveform"] for v in (lazy, nested))
    assert torch.equal(whole, again)
    slower = replace(outer, fps=Fraction(12000, 1001))
    assert torch.equal(
        house.lazy.LazyVideo(slower).get_components().images, lazy.get_components().images[::2]
    )


def test_core_save_video_saves_it(house, comfy, lazy, tmp_path, monkeypatch):
    from comfy_extras.nodes_video import GetVideoComponents, SaveVideo, VideoSlice

    monkeypatch.setattr(comfy.folder_paths, "output_directory", str(tmp_path))
    with torch.inference_mode():  # as ComfyUI runs nodes
        sliced = VideoSlice.execute(lazy, 0.25, 0.5, True).result[0]
        save = SaveVideo.PREPARE_CLASS_CLONE(None)  # as the executor does before it runs a node
        result = save.execute(sliced, "video/core", "auto", {"codec": "auto"})
        images, audio, fps, depth = GetVideoComponents.execute(sliced).result
    assert result.result[0] is sliced
    saved = tmp_path / "video" / "core_00001_.mp4"
    assert house.InputImpl.VideoFromFile(str(saved)).get_frame_count() == 12
    assert images.shape == (12, HEIGHT, WIDTH, 3) and depth == 8
    assert fps == pytest.approx(23.976, abs=1e-3)
    assert np.isclose(audio["waveform"].shape[-1], 12 * 1001 / 24000 * 44100, atol=1)


def test_films_made_in_inference_mode_can_be_saved_outside_of_it_and_back(house, tmp_path):
    """Core runs nodes in inference mode, which is a state of the thread; others may save later."""
    with torch.inference_mode():
        shot = house.nodes.TroupeShot.execute(image=moving_batch(4), camera="zoom_in").result[0]
        other = house.nodes.TroupeShot.execute(
            image=moving_batch(4), duration=0.5, transition="crossfade", transition_duration=0.2
        ).result[0]
        film = house.nodes.TroupeTimeline.execute(
            {"shot0": replace(shot, duration=Fraction(1)), "shot1": other}, 24.0, 0, 0
        ).result[0]
        inside = film.get_components().images.clone()
    outside = film.get_components().images
    film.save_to(str(tmp_path / "film.mp4"))
    assert torch.equal(inside, outside)
    assert film.get_frame_count() == 31  # 1 + 0.5 - 0.2 seconds at 24 fps, rounded
