"""Films on a running ComfyUI: from pictures to files, cancelled, refused, and read by core."""

import io
import json
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from headless.convert import declared_inputs
from tools.client import ExecutionError, ExecutionInterrupted, PromptError
from tools.events import Events

WIDTH, HEIGHT = 128, 72


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def shot(**inputs) -> dict:
    return node("TroupeShot", **inputs)


def timeline(*shots: str, **inputs) -> dict:
    joined = {f"shots.shot{n}": [name, 0] for n, name in enumerate(shots)}
    return node("TroupeTimeline", **{"fps": 24.0, "width": 0, "height": 0, **joined, **inputs})


def save(film: str, **inputs) -> dict:
    settings = {"filename_prefix": "video/test", "preset": "h264_draft", **inputs}
    return node("TroupeSaveVideo", video=[film, 0], **settings)


@pytest.fixture(scope="module")
def pictures(server) -> list[str]:
    """Three pictures of one colour each in the input folder, and a folder of 12 frames."""
    names = []
    for number, colour in enumerate([(200, 120, 90), (20, 60, 200), (40, 200, 40)]):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(server.input_dir / f"film{number}.png")
        names.append(f"film{number}.png")
    folder = server.input_dir / "film_frames"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (65, 49), (20 * number,) * 3).save(folder / f"frame{number}.png")
    return names


def slideshow(pictures: list[str], **settings) -> dict:
    """Three stills of a second each, joined by a crossfade and a wipe of a quarter second."""
    graph = {f"load{n}": node("LoadImage", image=name) for n, name in enumerate(pictures)}
    graph |= {f"shot{n}": shot(image=[f"load{n}", 0], duration=1.0) for n in range(len(pictures))}
    graph["shot2"]["inputs"] |= {"transition": "wipe_left", "transition_duration": 0.25}
    names = [f"shot{n}" for n in range(len(pictures))]
    film = {"transition": "crossfade", "transition_duration": 0.25, **settings}
    return graph | {"film": timeline(*names, **film)}


def saved_file(server, outputs: dict, name: str = "save") -> Path:
    (entry,) = outputs[name]["images"]
    assert entry["type"] == "output"
    return server.output_dir / entry["subfolder"] / entry["filename"]


def test_stills_become_a_film(server, pictures):
    graph = slideshow(pictures, fps=23.976) | {"save": save("film", preset="h264")}
    workflow = {"nodes": [], "version": 0.4, "extra": {"note": "from the page"}}
    prompt_id = server.client.queue(graph, extra_pnginfo={"workflow": workflow})
    outputs = server.client.wait(prompt_id)
    assert outputs["save"]["animated"] == [True]
    path = saved_file(server, outputs)
    assert path.parent.name == "video" and path.suffix == ".mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.width, context.height) == (WIDTH, HEIGHT)
        assert stream.average_rate == Fraction(24000, 1001)
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert json.loads(container.metadata["workflow"]) == workflow
        assert json.loads(container.metadata["prompt"])["save"]["class_type"] == "TroupeSaveVideo"
        frames = [frame.to_ndarray(format="rgb24")[36, 64] for frame in container.decode(stream)]
    assert len(frames) == 60  # 3 s less two quarters at 23.976 fps
    for index, colour in ((0, (200, 120, 90)), (30, (20, 60, 200)), (59, (40, 200, 40))):
        assert np.abs(frames[index].astype(int) - colour).max() <= 3
    assert server.client.view(**outputs["save"]["images"][0]) == path.read_bytes()


def test_shots_play_by_number(server, pictures):
    """A prompt is JSON; the order of its keys means nothing, and shot10 comes after shot9."""
    graph = slideshow(pictures)
    order = {10: "shot0", 0: "shot2", 9: "shot1"}
    inputs = graph["film"]["inputs"]
    for number in range(3):
        del inputs[f"shots.shot{number}"]
    inputs |= {f"shots.shot{number}": [name, 0] for number, name in order.items()}
    path = saved_file(server, server.client.run(graph | {"save": save("film")}))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24")[36, 64] for frame in container.decode(video=0)]
    for index, colour in ((0, (40, 200, 40)), (30, (20, 60, 200)), (-1, (200, 120, 90))):
        assert np.abs(frames[index].astype(int) - colour).max() <= 12


def core_save(server, video: list) -> dict:
    """Core's Save Video with as many of these inputs as this ComfyUI's has."""
    inputs = {"video": video, "filename_prefix": "video/core", "format": "mp4", "codec": "h264"}
    inputs |= {"codec.encoding": "re-encode", "codec.encoding.crf": 12.0}
    known = declared_inputs(server.client.object_info("SaveVideo")["SaveVideo"])
    return node("SaveVideo", **{name: inputs[name] for name in inputs if name in known})


def test_core_nodes_take_the_film(server, pictures):
    graph = slideshow(pictures) | {
        "trim": node(
            "Video Slice", video=["film", 0], start_time=0.5, duration=1.0, strict_duration=True
        ),
        "core": core_save(server, ["trim", 0]),
        "parts": node("GetVideoComponents", video=["trim", 0]),
        "images": node("SaveImage", images=["parts", 0], filename_prefix="video/frame"),
    }
    outputs = server.client.run(graph)
    with av.open(str(saved_file(server, outputs, "core"))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 24 and stream.codec_context.colorspace == 1
        assert sum(1 for _ in container.decode(stream)) == 24
        assert "prompt" in container.metadata
    images = [server.client.view(**entry) for entry in outputs["images"]["images"]]
    assert len(images) == 24
    first = np.asarray(Image.open(io.BytesIO(images[0])).convert("RGB"))
    assert first.shape == (HEIGHT, WIDTH, 3) and (first == (200, 120, 90)).all()


def test_videos_of_core_are_shots_with_their_sound(server, pictures):
    """A film with a tone is saved, uploaded, loaded by core, and becomes half of another film."""
    tone = {"tone": node("EmptyAudio", duration=3.0, sample_rate=44100, channels=2)}
    first = slideshow(pictures, audio=["tone", 0]) | tone | {"save": save("film")}
    path = saved_file(server, server.client.run(first))
    (server.input_dir / "clip.mp4").write_bytes(path.read_bytes())
    graph = {
        "clip": node("LoadVideo", file="clip.mp4"),
        "part": node(
            "Video Slice", video=["clip", 0], start_time=0.5, duration=1.0, strict_duration=True
        ),
        "one": shot(video=["part", 0]),
        "load": node("LoadImage", image=pictures[0]),
        "two": shot(image=["load", 0], duration=0.5, camera="zoom_in"),
        "film": timeline("one", "two", width=64),
        "save": save("film", preset="vp9"),
    }
    with av.open(str(saved_file(server, server.client.run(graph)))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (64, 36)
        assert container.streams.audio[0].codec_context.name == "opus"
        assert sum(1 for _ in container.decode(stream)) == 36


def test_any_video_can_be_saved(server, pictures):
    """Core's Create Video holds tensors; odd sizes get a last row and column more."""
    graph = {
        "load": node("LoadImage", image=pictures[0]),
        "odd": node(
            "ImageScale",
            image=["load", 0],
            upscale_method="area",
            width=65,
            height=49,
            crop="disabled",
        ),
        "batch": node("RepeatImageBatch", image=["odd", 0], amount=5),
        "video": node("CreateVideo", images=["batch", 0], fps=10.0),
        "save": save("video", preset="h265", crf=10.0),
        "name": node("PreviewAny", source=["save", 1]),
    }
    outputs = server.client.run(graph)
    path = saved_file(server, outputs)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (66, 50)
        assert stream.average_rate == 10
        assert sum(1 for _ in container.decode(stream)) == 5
    assert outputs["name"]["text"] == [path.relative_to(server.output_dir).as_posix()]


def test_folders_of_frames(server, pictures):
    graph = {
        "frames": node("TroupeLoadFrames", folder="film_frames", fps=12.5),
        "save": save("frames", preset="ffv1"),
    }
    first = saved_file(server, server.client.run(graph))

    def levels(path: Path) -> list[int]:
        with av.open(str(path)) as container:
            assert container.streams.video[0].average_rate == Fraction(25, 2)
            return [int(f.to_ndarray(format="rgb24")[5, 5, 0]) for f in container.decode(video=0)]

    assert levels(first) == [20 * n for n in range(12)]
    Image.new("RGB", (65, 49), (255,) * 3).save(server.input_dir / "film_frames" / "frame3.png")
    again = saved_file(server, server.client.run(graph))  # same prompt, but the folder changed
    assert again != first and levels(again)[3] == 255


def test_what_browsers_do_not_play_has_a_small_copy_to_look_at(server, pictures):
    graph = slideshow(pictures, width=1280, height=720)
    graph |= {"save": save("film", preset="ffv1"), "plain": save("film")}
    outputs = server.client.run(graph)
    assert saved_file(server, outputs).suffix == ".mkv"  # what clients fetch is the film
    (small,) = outputs["save"]["preview"]
    assert small["type"] == "temp" and "preview" not in outputs["plain"]
    with av.open(io.BytesIO(server.client.view(**small))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.width, context.height) == ("h264", 640, 360)
        assert sum(1 for _ in container.decode(video=0)) == 60


def test_files_that_are_cut_off_are_said_on_the_node(server, pictures):
    first = saved_file(server, server.client.run(slideshow(pictures) | {"save": save("film")}))
    data = first.read_bytes()
    (server.input_dir / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    graph = {
        "load": node("LoadVideo", file="cut.mp4"),
        "one": shot(video=["load", 0]),
        "film": timeline("one"),
        "save": save("film"),
    }
    outputs = server.client.run(graph)
    assert "cut.mp4 is cut off: of 2.50 s only the first" in outputs["one"]["text"][0]


def test_cancelling_stops_at_once_and_leaves_no_file(server, pictures):
    long = slideshow(pictures, width=1280, height=720)
    long["shot1"]["inputs"] |= {"duration": 600.0, "camera": "pan_left"}
    long["save"] = save("film", filename_prefix="video/cancelled")
    folder = server.output_dir / "video"
    with Events(server.url) as events:
        prompt_id = server.client.queue(long, client_id=events.client_id)
        events.wait_for(
            lambda e: e.type == "progress" and e.data["node"] == "save" and e.data["value"] >= 10
        )
        assert list(folder.glob("cancelled*.part"))
        server.client.interrupt(prompt_id)
        with pytest.raises(ExecutionInterrupted):
            server.client.wait(prompt_id, timeout=60)
    assert not list(folder.glob("cancelled*"))
    outputs = server.client.run(slideshow(pictures) | {"save": save("film", crf=30.0)})
    assert saved_file(server, outputs).exists()


ESCAPES = ["../out", "/tmp/out", "a/../../out", "C:\\out", "\\\\host\\out", "a\0b", "  "]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_the_folders_are_refused(server, pictures, name):
    with pytest.raises(PromptError, match="filename_prefix"):
        server.client.run(slideshow(pictures) | {"save": save("film", filename_prefix=name)})
    with pytest.raises(PromptError, match="folder"):
        frames = node("TroupeLoadFrames", folder=name, fps=24.0)
        server.client.run({"frames": frames, "save": save("frames")})


def test_linked_names_are_refused_too(server, pictures):
    graph = slideshow(pictures) | {
        "text": node("PrimitiveString", value="../../escaped"),
        "save": save("film", filename_prefix=["text", 0]),
    }
    with pytest.raises(ExecutionError, match="filename_prefix '../../escaped' must not contain"):
        server.client.run(graph)
    assert not list(server.base_dir.rglob("escaped*"))


def test_names_may_hold_folders_and_variables(server, pictures):
    graph = slideshow(pictures)
    prefix = "films\\%date:yyyy%/%width%x%height%_%TroupeTimeline.fps%/take"  # as on Windows
    year = datetime.now().year
    outputs = server.client.run(graph | {"save": save("film", filename_prefix=prefix)})
    path = saved_file(server, outputs)
    fps = graph["film"]["inputs"]["fps"]
    assert path.parent == server.output_dir / f"films/{year}/128x72_{fps:g}"
    assert path.name == "take_00001_.mp4"
    refused = save("film", filename_prefix="Zoe: the film")
    with pytest.raises(PromptError, match="Windows"):
        server.client.run(graph | {"save": refused})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shot0": {"image": None}}, "Shot needs exactly one of image and video"),
        ({"film": {"transition_duration": 2.0}}, "Shot 1 lasts 1 s but its transitions take"),
        ({"shot1": {"duration": 0.01}}, "Shot 2 lasts 0.01 s, less than one frame"),
        ({"save": {"preset": "prores", "crf": 20.0}}, "Preset 'prores' has no crf"),
    ],
)
def test_mistakes_are_named_and_the_server_goes_on(server, pictures, change, message):
    graph = slideshow(pictures) | {"save": save("film")}
    for name, inputs in change.items():
        graph[name]["inputs"] |= inputs
        graph[name]["inputs"] = {k: v for k, v in graph[name]["inputs"].items() if v is not None}
    with pytest.raises(ExecutionError, match=message):
        server.client.run(graph)
    assert server.client.object_info("TroupeShot")


def test_wrong_values_are_refused_before_anything_runs(server, pictures):
    graph = slideshow(pictures) | {"save": save("film")}
    for name, inputs, message in (
        ("save", {"preset": "avi"}, "preset"),
        ("film", {"fps": 0.0}, "fps"),
        ("shot0", {"camera": "fly"}, "camera"),
    ):
        changed = graph | {name: node(graph[name]["class_type"], **graph[name]["inputs"] | inputs)}
        with pytest.raises(PromptError, match=message):
            server.client.run(changed)
