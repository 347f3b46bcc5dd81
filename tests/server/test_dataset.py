"""The dataset nodes on a running ComfyUI: what they show, what they refuse, when they run again."""

import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests.systems import WINDOWS, needs_links
from tools.client import ExecutionError, PromptError

LOAD, FROM_IMAGES = "TroupeLoadDataset", "TroupeDatasetFromImages"


@pytest.fixture
def cast(server):
    """A four-category dataset of photographs in ComfyUI's input folder, with one broken file."""
    folder = server.input_dir / "cast"
    places = {
        "characters/zoe/astronaut": "smiling",
        "attire/coat": "a man with a camera",
        "backgrounds/rocket": None,
    }
    photos = ("astronaut", "camera", "rocket")
    for (place, caption), photo in zip(places.items(), photos, strict=True):
        path = folder / f"{place}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(getattr(skimage.data, photo)()).save(path)
        if caption:
            path.with_suffix(".txt").write_text(caption, "utf-8")
    (folder / "poses").mkdir()
    (folder / "poses" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    yield folder
    shutil.rmtree(folder)


def load(**inputs) -> dict:
    return {
        "1": {"class_type": LOAD, "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}},
    }


def picture(server, shown: dict) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(server.client.view(**shown["images"][0]))))


def test_load_shows_report_and_sheet(server, cast):
    prompt = load(
        folder="cast",
        trigger="common",
        attire_trigger="redcoat",
        backgrounds_template="{caption} outside",
        default_caption="a street",
        resolution=512,
        options="categories: {attire: {repeats: 4}}",
    )
    shown = server.client.run(prompt)["1"]
    (report,) = shown["text"]
    assert report.startswith("cast: 3 pictures, 6 per epoch")
    assert 'attire: 1, trigger "redcoat", 4 times per epoch' in report
    assert 'characters: 1, trigger "zoe"' in report
    assert "error: poses/broken.jpg: " in report
    assert 'backgrounds/rocket.png: has no caption of its own: "a street outside"' in report
    assert "buckets at 512 px: 512x512: 5, 576x384: 1" in report
    sheet = picture(server, shown)
    assert sheet.shape[1] > 500 and sheet.std() > 30


def test_report_output_is_the_shown_text(server, cast):
    outputs = server.client.run(load(folder="cast"))
    assert outputs["2"]["text"] == outputs["1"]["text"]


def test_it_runs_again_only_when_the_folder_changed(server, cast):
    def ran() -> bool:
        prompt_id = server.client.queue(load(folder="cast"))
        server.client.wait(prompt_id)
        messages = server.client.history(prompt_id)["status"]["messages"]
        cached = next(data["nodes"] for event, data in messages if event == "execution_cached")
        return "1" not in cached

    ran()
    assert not ran()
    (cast / "attire" / "coat.txt").write_text("a man in a long black coat", "utf-8")
    assert ran()
    assert not ran()
    os.utime(cast / "backgrounds" / "rocket.png", (time.time() + 5, time.time() + 5))
    assert ran()


def test_folders_are_offered(server, cast):
    own = server.base_dir / "datasets" / "cast"
    shutil.copytree(cast, own)
    shutil.copytree(cast, own.with_name("other"))
    try:
        info = server.client.object_info(LOAD)[LOAD]["input"]["required"]["folder"]
        options = info[1]["options"] if info[0] == "COMBO" else info[0]
        assert {"cast", "cast [datasets]", "other"} <= set(options)
        assert "cast/poses" not in options
        (own / "extra.png").write_bytes((cast / "attire" / "coat.png").read_bytes())
        for name, pictures in {"cast": 3, "cast [datasets]": 4, "other": 3}.items():
            shown = server.client.run(load(folder=name))["1"]
            assert f": {pictures} pictures" in shown["text"][0]
    finally:
        shutil.rmtree(own)
        shutil.rmtree(own.with_name("other"))


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("gone", "'gone' was not found; put it in one of: input/, datasets/"),
        ("../input/cast", "must not contain '..'"),
        ("cast/../../output", "must not contain '..'"),
        ("/etc", "must be a relative name"),
        ("C:\\pictures", "must be a relative name"),
        ("\\\\host\\share", "must be a relative name"),
        ("ca\0st", "must be a relative name"),
        ("", "is empty"),
        ("cast/attire/coat.txt", "is a file"),
        pytest.param("outside", "leads outside", marks=needs_links),
    ],
)
def test_folder_that_is_no_dataset_is_refused_before_running(server, cast, tmp_path, folder, words):
    link = server.input_dir / "outside"
    if not WINDOWS:
        link.symlink_to(tmp_path)
    try:
        with pytest.raises(PromptError) as refused:
            server.client.run(load(folder=folder))
        assert words in str(refused.value)
    finally:
        link.unlink(missing_ok=True)
    assert "3 pictures" in server.client.run(load(folder="cast"))["1"]["text"][0]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"template": "{name}"}, "template: .*{name}"),
        ({"options": "- a"}, "options must be lines of"),
        ({"options": "a: [1"}, "options is not valid YAML in line 1"),
        ({"options": "items: [{path: /etc/passwd, caption: x}]"}, "cannot be set here"),
        ({"options": "folder: /etc"}, "cannot be set here"),
        ({"options": "colour: red"}, "Dataset settings: colour"),
        ({"options": "categories: [1]"}, "Dataset settings: categories"),
        ({"options": "categories: {attire: 3}", "attire_trigger": "x"}, "categories"),
        ({"options": "[" * 5000}, "options is not valid YAML: it is nested too deep"),
        ({"options": "categories: &a {poses: *a}"}, "nested too deep"),
        ({"options": "{1: 2}"}, "Dataset settings"),
        ({"options": "categories: {poses: {repeats: 0}}"}, r"categories\.poses\.repeats"),
        ({"options": "!!python/object/apply:os.system [id]"}, "not valid YAML in line 1"),
    ],
)
def test_wrong_settings_are_named(server, cast, inputs, words):
    with pytest.raises(ExecutionError, match=words) as failed:
        server.client.run(load(folder="cast", **inputs))
    assert "\n" not in failed.value.message


def test_empty_folder_says_what_to_do(server):
    (server.input_dir / "nothing").mkdir()
    with pytest.raises(ExecutionError, match=r"No images in nothing: put .png/.jpg files there"):
        server.client.run(load(folder="nothing"))


def core_image(server, name: str, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(server.input_dir / name)
    return name


def stored(server) -> set[Path]:
    root = server.output_dir / "troupe" / "datasets"
    return {p for p in root.rglob("*") if p.is_file()}


def test_pictures_from_the_graph(server):
    photo = skimage.data.chelsea()
    transparent = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    transparent[:, :200, 3] = 0
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": core_image(server, "c.png", photo)}},
        "2": {
            "class_type": "LoadImage",
            "inputs": {"image": core_image(server, "t.png", transparent)},
        },
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {
            "class_type": FROM_IMAGES,
            "inputs": {
                "images": ["3", 0],
                "mask": ["2", 1],
                "captions": "a cat\n\nhalf a cat\n",
                "trigger": "mimi",
                "category": "characters",
                "repeats": 2,
            },
        },
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["4", 2]}},
    }
    before = stored(server)
    outputs = server.client.run(prompt)
    (report,) = outputs["4"]["text"]
    assert outputs["5"]["text"] == [report]
    assert "2 pictures, 4 per epoch" in report
    assert 'characters: 2, trigger "mimi", 2 times per epoch' in report
    assert picture(server, outputs["4"]).std() > 30
    new = sorted(p.name for p in stored(server) - before)
    assert new == ["0001-masklabel.png", "0001.png", "0002-masklabel.png", "0002.png"]
    kept = {p.name: np.array(Image.open(p)) for p in stored(server) - before}
    assert np.array_equal(kept["0001.png"], photo)
    assert (kept["0001-masklabel.png"][:, :200] == 255).all()
    assert (kept["0001-masklabel.png"][:, 201:] == 0).all()


def test_lists_of_other_nodes_are_taken(server, cast):
    """Core's folder loader gives lists of pictures of different sizes and of texts."""
    flat = server.input_dir / "flat"
    flat.mkdir()
    for number, name in enumerate(("coffee", "astronaut")):
        Image.fromarray(getattr(skimage.data, name)()).save(flat / f"{number}.png")
        (flat / f"{number}.txt").write_text(f"a photo of {name}", "utf-8")
    prompt = {
        "1": {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": "flat"}},
        "2": {
            "class_type": FROM_IMAGES,
            "inputs": {"images": ["1", 0], "captions": ["1", 1], "resolution": 512},
        },
    }
    shown = server.client.run(prompt)["2"]
    shutil.rmtree(flat)
    assert "2 pictures" in shown["text"][0] and "no trigger" in shown["text"][0]
    assert "buckets at 512 px: 512x512: 1, 576x384: 1" in shown["text"][0]


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({"captions": "a\nb\nc"}, ExecutionError, "3 captions for 1 pictures: give one for all"),
        ({"category": "hats"}, PromptError, "hats"),
        ({"repeats": 0}, PromptError, "repeats"),
        ({"template": "{x}"}, ExecutionError, "{x}"),
    ],
)
def test_wrong_input_from_the_graph_is_named(server, inputs, error, words):
    core_image(server, "c.png", skimage.data.chelsea())
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "c.png"}},
        "2": {"class_type": FROM_IMAGES, "inputs": {"images": ["1", 0], **inputs}},
    }
    with pytest.raises(error) as failed:
        server.client.run(prompt)
    assert words in str(failed.value)
