"""Captioning models of the transformers library, tiny and random but of the real classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.unit.training.tiny_captioners import MAKERS, WORDS
from training.captioner import Captioner, CaptionerError, caption_all, tidy
from training.captions import read_caption
from training.dataset import read_dataset
from training.errors import DatasetError
from training.sidecars import caption_folder, report

FLORENCE = hasattr(transformers, "Florence2Processor")  # from 4.57 on
KINDS = [name for name in MAKERS if FLORENCE or name != "florence2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    with torch.random.fork_rng():
        for name in KINDS:
            torch.manual_seed(3)
            MAKERS[name](root / name)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_what_the_library_generates(models, noise, kind):
    """The processor and `generate` called by hand; the caption is their answer, tidied."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    captioner = Captioner(models[kind])
    ours = captioner.caption(noise, beams=1, max_words=6)
    processor = AutoProcessor.from_pretrained(models[kind])
    model = AutoModelForImageTextToText.from_pretrained(models[kind]).eval()
    prompt = {"text": "<DETAILED_CAPTION>"} if kind == "florence2" else {}
    inputs = processor(images=Image.fromarray(noise), return_tensors="pt", **prompt)
    ids = model.generate(**inputs, max_new_tokens=16, do_sample=False, num_beams=1)
    theirs = processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert ours == tidy(theirs, max_words=6)
    assert len(ours.split()) <= 6 and ours == captioner.caption(noise, beams=1, max_words=6)
    if kind != "florence2":
        assert ours and set(ours.split()) <= set(WORDS)


@pytest.mark.parametrize("kind", ["blip", "git"])
def test_a_prompt_is_completed_and_not_repeated(models, noise, kind):
    captioner = Captioner(models[kind])
    text = captioner.caption(noise, "A photo of", beams=2)
    assert not text.lower().startswith("a photo of")
    assert set(text.split()) <= set(WORDS)


@pytest.mark.skipif(not FLORENCE, reason="this transformers has no Florence-2")
def test_florence_understands_its_tasks_only(models, noise):
    captioner = Captioner(models["florence2"])
    assert isinstance(captioner.caption(noise, "<CAPTION>"), str)
    with pytest.raises(CaptionerError, match="does not fit this captioner.*<MORE_DETAILED"):
        captioner.caption(noise, "<CAPTION> and more")


@pytest.mark.parametrize(
    ("text", "prompt", "words", "expected"),
    [
        ("a photo of a  dog. ", "A photo of", 9, "a dog"),
        ("</s><s>A dog,\n sitting.</s>", "", 9, "A dog, sitting"),
        ("one two three", "", 2, "one two"),
        ("a photographer", "a photo", 9, "a photographer"),
        ("", "", 5, ""),
    ],
)
def test_tidy(text, prompt, words, expected):
    assert tidy(text, prompt, words) == expected


def rewrite(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load, save_file

    tensors = load((folder / "model.safetensors").read_bytes())  # a mapped file cannot be replaced
    tensors.pop(sorted(tensors)[5])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "config of bytes": (
        lambda f: (f / "config.json").write_bytes(b"\xff\x00"),
        "config.json cannot be read",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "type None is not known"),
    "another model": (lambda f: rewrite(f, model_type="bert"), "type 'bert' is not known"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 99),
        "cannot be loaded",
    ),
    "a weight is missing": (drop_a_weight, "1 weights are missing"),
    "only a pickle": (only_a_pickle, "cannot be loaded"),
    "no processor": (
        lambda f: [p.unlink() for p in f.glob("*processor_config.json")],
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_named(models, tmp_path, name):
    import shutil

    folder = tmp_path / "my_blip"
    shutil.copytree(models["blip"], folder)
    spoil, words = BROKEN[name]
    spoil(folder)
    with pytest.raises(CaptionerError, match=words) as caught:
        Captioner(folder)
    assert "my_blip" in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    for n, name in enumerate(("a.png", "b.png", "c.png", "10_zoe/d.png")):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((pictures / f"p{n}.png").read_bytes())
    (tmp_path / "set" / "a.txt").write_text("by hand", "utf-8")
    (tmp_path / "set" / "b.txt").write_text("  \n", "utf-8")
    (tmp_path / "set" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "set"


def size_of(pixels_hwc: np.ndarray) -> str:
    return f"{pixels_hwc.shape[1]} wide"


def texts(folder: Path) -> dict[str, str]:
    return {p.name: read_caption(p)[0] for p in folder.rglob("*.txt")}


def test_pictures_without_a_caption_get_one(folder):
    seen = []
    results = caption_folder(
        folder, size_of, "film still", progress=lambda done, total: seen.append((done, total))
    )
    assert texts(folder) == {
        "a.txt": "by hand",
        "b.txt": "film still, 96 wide",
        "c.txt": "film still, 64 wide",
        "d.txt": "film still, 80 wide",
    }
    assert [(r.name, r.written) for r in results] == [
        ("a.png", False),
        ("b.png", True),
        ("bad.png", False),
        ("c.png", True),
        ("10_zoe/d.png", True),
    ]
    assert seen == [(n, 5) for n in range(6)]
    said = report(results)
    assert said.startswith("3 captions written, 1 kept.") and "bad.png: not a picture" in said
    captions = {i.path.name: i.caption for i in read_dataset(folder).items}
    assert captions["d.png"] == "zoe, film still, 80 wide"
    assert not caption_folder(folder, size_of)[1].written  # a second time nothing is done


def test_overwriting_must_be_asked_for(folder):
    (folder / "c.caption").write_text("also by hand", "utf-8")
    caption_folder(folder, size_of, overwrite=True)
    assert texts(folder)["a.txt"] == "64 wide" and "c.txt" not in texts(folder)
    assert (folder / "c.caption").read_text("utf-8") == "64 wide\n"  # the one that counts


def test_other_kinds_of_captions_are_kept(folder):
    (folder / "b.txt").unlink()
    (folder / "c.caption").write_bytes(b"\x00\x01")  # unreadable, yet somebody's
    line = {"file_name": "b.png", "text": "listed"}
    (folder / "metadata.jsonl").write_text(json.dumps(line), "utf-8")
    caption_folder(folder, size_of)
    assert set(texts(folder)) == {"a.txt", "d.txt"}


def test_pictures_of_one_name_share_a_caption(folder, pictures):
    (folder / "c.webp").write_bytes((pictures / "p1.png").read_bytes())
    results = {r.name: r for r in caption_folder(folder, size_of)}
    assert results["c.png"].caption == results["c.webp"].caption
    assert results["c.png"].written != results["c.webp"].written


def test_a_full_disk_leaves_no_half_caption(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.wholefile.os.fsync", full)
    with pytest.raises(DatasetError, match=r"b\.png: its caption cannot be written \(No space"):
        caption_folder(folder, size_of)
    assert texts(folder) == {"a.txt": "by hand", "b.txt": ""}
    assert not list(folder.rglob("*.part"))


def test_an_empty_folder_and_an_interrupt(folder, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="No images in none"):
        caption_folder(tmp_path / "none", size_of)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_folder(folder, size_of, progress=stop)
    assert set(texts(folder)) == {"a.txt", "b.txt"} and texts(folder)["b.txt"] == "96 wide"


def test_pictures_of_the_graph():
    pictures = [np.zeros((8, 12, 3), np.float32), np.full((8, 9, 4), 2.0, np.float32)]
    seen = []

    def describe(pixels_hwc):
        assert pixels_hwc.dtype == np.uint8 and pixels_hwc.shape[2] == 3
        return f"{pixels_hwc.max()}"

    captions = caption_all(pictures, describe, "p", lambda d, t: seen.append((d, t)))
    assert captions == ["p, 0", "p, 255"] and seen == [(0, 2), (1, 2), (2, 2)]
