"""Captioning, combined datasets, masks and versions on a running ComfyUI."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.training.tiny_captioners import WORDS, make_blip
from tools.client import ExecutionError, PromptError

SIZE = 128


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def blip(server) -> str:
    folder = server.models_dir / "captioners" / "tiny_blip"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        make_blip(folder)
    yield "tiny_blip"
    shutil.rmtree(folder)


@pytest.fixture
def photos(server) -> Path:
    """Three noisy pictures, one captioned; one has a mask."""
    folder = server.input_dir / "uncaptioned"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        values = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    (folder / "a.txt").write_text("by hand", "utf-8")
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    Image.fromarray(half).save(folder / "b-mask.png")
    yield folder
    shutil.rmtree(folder)


def caption_graph(model: str, **inputs) -> dict:
    return {
        "captions": node("TroupeCaptionImages", model=model, max_words=5, **inputs),
        "list": node("PreviewAny", source=["captions", 0]),
    }


def test_a_folder_gets_sidecar_files(server, blip, photos):
    graph = caption_graph(blip, folder="uncaptioned", prefix="film still", beams=1)
    shown = server.client.run(graph)
    (report,) = shown["captions"]["text"]
    assert report.startswith("2 captions written, 1 kept.")
    assert (photos / "a.txt").read_text("utf-8") == "by hand"
    written = (photos / "b.txt").read_text("utf-8").strip()
    start, _, said = written.partition(", ")
    assert start == "film still" and said and set(said.split()) <= set(WORDS)
    (photos / "b.txt").write_text("edited", "utf-8")
    shown = server.client.run(graph)  # the folder changed, so it runs again and writes nothing
    assert shown["captions"]["text"][0].startswith("0 captions written, 3 kept.")
    assert (photos / "b.txt").read_text("utf-8") == "edited"


def test_captions_of_the_graph_feed_a_dataset(server, blip, photos):
    graph = caption_graph(blip, images=["picture", 0]) | {
        "picture": node("EmptyImage", width=SIZE, height=SIZE, batch_size=2, color=0xFF0000),
        "data": node(
            "TroupeDatasetFromImages",
            images=["picture", 0],
            captions=["captions", 0],
            trigger="zoe",
        ),
    }
    (report,) = server.client.run(graph)["data"]["text"]
    assert 'pictures: 2, trigger "zoe"' in report and "has no caption" not in report


@pytest.mark.parametrize("name", ["../x", "/etc", "a\0b", "", "gone", "tiny_blip/config.json"])
def test_models_lie_below_their_folder(server, blip, photos, name):
    with pytest.raises(PromptError) as caught:
        server.client.run(caption_graph(name, folder="uncaptioned"))
    assert "captioning model" in str(caught.value)


def test_nothing_to_caption_and_broken_models_are_said(server, blip, photos):
    with pytest.raises(ExecutionError, match="choose a folder or connect images"):
        server.client.run(caption_graph(blip))
    broken = server.models_dir / "captioners" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}), "utf-8")
    with pytest.raises(ExecutionError, match="'broken': type 'llama' is not known"):
        server.client.run(caption_graph("broken", folder="uncaptioned"))
    shutil.rmtree(broken)
    assert not (photos / "b.txt").exists()


def test_masks_versions_and_regularisation_train_together(server, photos):
    """Everything this page offers at once, from nodes to the file's metadata."""
    graph = {
        "photos": node("TroupeLoadDataset", folder="uncaptioned", trigger="zoe", masks="white"),
        "picture": node("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=0x00FF00),
        "others": node(
            "TroupeDatasetFromImages",
            images=["picture", 0],
            captions="a person",
            regularisation=True,
        ),
        "both": node(
            "TroupeCombineDatasets",
            **{"datasets.dataset0": ["photos", 0], "datasets.dataset1": ["others", 0]},
        ),
        "yaml": node("TroupeTrainingOptions", yaml="samples: {at_end: false}"),
        "options": node(
            "TroupeDataOptions",
            options=["yaml", 0],
            captions_dropout=0.2,
            augment_flip=True,
            prior_weight=0.5,
        ),
        "train": node(
            "TroupeTrainLora",
            checkpoint="nano_sdxl.safetensors",
            dataset=["both", 0],
            preset="try out",
            steps=3,
            rank=2,
            resolution=SIZE,
            options=["options", 0],
            filename_prefix="versions",
        ),
    }
    shown = server.client.run(graph, timeout=300)
    (report,) = shown["both"]["text"]
    assert "regularisation: 1" in report and "1 mask (white is learnt)" in report
    from safetensors import safe_open

    (path,) = (server.output_dir / "loras").glob("versions*.safetensors")
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["ss_flip_aug"] == "True" and about["ss_caption_dropout_rate"] == "0.2"
    assert about["ss_num_reg_images"] == "1" and about["ss_prior_loss_weight"] == "0.5"
    path.unlink()
