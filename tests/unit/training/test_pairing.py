"""A picture, its caption, its mask and its line of a listing find each other in any letter case."""

import builtins
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.dataset import read_dataset
from training.pairing import pair
from training.sidecars import caption_folder, report

ACCENTED = "Zo\u00eb"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def draw(path: Path, mask: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([*str(path).encode()]).integers(0, 256, (64, 64, 3))
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture = picture.convert("L").point(lambda v: 255 * (v > 99)) if mask else picture
    picture.save(path, "PNG")
    return path


def captions(folder: Path) -> dict[str, str]:
    return {item.path.name: item.caption for item in read_dataset(folder).items}


def remarks(folder: Path) -> dict[str, str]:
    issues = read_dataset(folder).issues
    return {i.path: i.message for i in issues if "smaller than" not in i.message}


def test_partners_by_name():
    """The very same name first; a partner in other case is nobody else's own."""
    assert pair(["a", "A", "b", "C"], ["A", "B", "c", "d"]) == {"A": "A", "b": "B", "C": "c"}
    assert pair(["a", "A"], ["a"]) == {"a": "a"}
    assert pair([], ["a"]) == {} == pair(["a"], [])


def test_captions_and_masks_in_any_case(folder):
    draw(folder / "IMG_0001.JPG")
    (folder / "img_0001.txt").write_text("a hat", "utf-8")
    draw(folder / "b.png")
    (folder / "B.CAPTION").write_text("a coat", "utf-8")
    draw(folder / "B-MASK.PNG", mask=True)
    draw(folder / f"{ACCENTED}.png")
    other = unicodedata.normalize("NFD", ACCENTED.upper())
    (folder / f"{other}.TXT").write_text("someone", "utf-8")
    draw(folder / "Mask" / "img_0001.Png", mask=True)
    dataset = read_dataset(folder)
    found = {i.path.name: (i.caption, i.mask_path and i.mask_path.name) for i in dataset.items}
    assert found == {
        "IMG_0001.JPG": ("a hat", "img_0001.Png"),
        "b.png": ("a coat", "B-MASK.PNG"),
        f"{ACCENTED}.png": ("someone", None),
    }
    assert not [i for i in dataset.issues if i.severity != "hint"]


def test_listings_in_any_case(folder):
    for name in ("A.PNG", "Images/B.png", "c.png"):
        draw(folder / name)
    lines = {"a.png": "one", "images/b.PNG": "two", "C.PNG": "other", "c.png": "own"}
    text = "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in lines.items())
    (folder / "Metadata.jsonl").write_text(text, "utf-8")
    assert captions(folder) == {"A.PNG": "one", "B.png": "two", "c.png": "own"}
    assert list(remarks(folder)) == ["C.PNG"]


def test_the_very_same_name_wins_and_the_rest_is_said(folder):
    for name in ("a.png", "A.png", "B.png"):
        draw(folder / name)
    for name in ("a.txt", "b.txt", "B.caption"):
        (folder / name).write_text(f"of {name}", "utf-8")
    assert captions(folder) == {"a.png": "of a.txt", "A.png": "", "B.png": "of B.caption"}
    said = remarks(folder)
    (one,) = [said[n] for n in ("a.png", "A.png") if "other letter case" in said.get(n, "")]
    assert "rename one" in one and "no caption" in said["A.png"] + one
    assert said["b.txt"] == "not used: B.caption is the caption"


MASKS = ["p-masklabel", "p_mask", "p-Mask", "P.MASK", "p_m", "p_M", "masks/p", "MASK/P"]


@pytest.mark.parametrize("name", MASKS)
def test_masks_by_every_common_name(folder, name):
    draw(folder / "p.png")
    draw(folder / f"{name}.png", mask=True)
    (item,) = read_dataset(folder).items
    assert item.path.name == "p.png" and item.mask_path == folder / f"{name}.png"


def test_what_looks_like_a_mask_is_none_or_said(folder):
    for name in ("team_m", "gas_mask", "told_mask", "dance", "dance_m"):
        draw(folder / f"{name}.png")
    for name in ("told_mask", "dance_m"):
        (folder / f"{name}.txt").write_text("of its own", "utf-8")
    dataset = read_dataset(folder)
    assert len(dataset.items) == 5 and all(i.mask_path is None for i in dataset.items)
    said = [i.path for i in dataset.issues if "ends as that of a mask" in i.message]
    assert said == ["gas_mask.png"]
    draw(folder / "dance_mask.png", mask=True)  # here names like that do mean masks
    dataset = read_dataset(folder)
    assert "gas_mask.png" not in {i.path.name for i in dataset.items}
    assert remarks(folder)["gas_mask.png"] == "a mask without a picture of its name"


def test_what_others_made_from_a_picture_is_left_out_and_counted(folder):
    for name in ("p", "q", "some_preview"):
        draw(folder / f"{name}.png")
    for name in ("p-condlabel", "q-CONDLABEL", "p.preview", "q_thumb"):
        draw(folder / f"{name}.png")
    for name in ("conditioning", "Control", "characters/conditioning_images", "attire/mask"):
        draw(folder / name / "p.png")
    draw(folder / "attire" / "p.png")
    dataset = read_dataset(folder)
    names = [i.path.relative_to(folder).as_posix() for i in dataset.items]
    assert names == ["p.png", "q.png", "some_preview.png", "attire/p.png"]
    report = dataset.report()
    assert "p-condlabel.png, p.preview.png, q-CONDLABEL.png, q_thumb.png: left out" in report
    assert "characters/conditioning_images/, conditioning/, Control/: not read" in report
    assert dataset.items[-1].mask_path == folder / "attire" / "mask" / "p.png"


# --------------------------------------------------------------------------------- writing


@pytest.fixture
def one_case(folder, monkeypatch):
    """Makes the folder one that takes names in any case for the same file, as on Windows."""

    def meant(value):
        path = Path(value) if isinstance(value, str | os.PathLike) else Path()
        if path.parent != folder:
            return value
        same = [n for n in os.listdir(folder) if n.casefold() == path.name.casefold()]
        return folder / same[0] if same else value

    def wrap(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **more: call(*map(meant, a), **more))

    wrap(builtins, "open")
    for name in ("replace", "rename", "unlink", "stat"):
        wrap(os, name)
    return folder


def words(pixels_hwc) -> str:
    return "by the machine"


def texts(folder: Path) -> dict[str, str]:
    return {
        name: Path(folder, name).read_bytes().decode().strip()
        for name in sorted(os.listdir(folder))
        if not name.lower().endswith((".png", ".jpg"))
    }


@pytest.mark.parametrize("system", ["folder", "one_case"])
@pytest.mark.parametrize("name", ["img_0001.txt", "Img_0001.TXT", "IMG_0001.Caption"])
def test_captions_of_people_are_never_written_over(request, system, name):
    folder = request.getfixturevalue(system)
    draw(folder / "IMG_0001.JPG")
    (folder / name).write_text("by hand", "utf-8")
    draw(folder / "new.png")
    for _ in range(2):
        results = caption_folder(folder, words)
        assert texts(folder) == {name: "by hand", "new.txt": "by the machine"}
    assert [(r.caption, r.written) for r in results][0] == ("by hand", False)
    caption_folder(folder, words, overwrite=True)  # the very file, not a second one
    assert texts(folder) == {name: "by the machine", "new.txt": "by the machine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_the_pictures_own_caption_is_left_alone(folder, tmp_path, overwrite):
    (tmp_path / "elsewhere.txt").write_text("somebody's", "utf-8")
    draw(folder / "a.png")
    (folder / "a.txt").symlink_to(tmp_path / "elsewhere.txt")  # leads out, so it is not read
    draw(folder / "b.png")
    draw(folder / "B.png")
    (folder / "b.txt").write_text("by hand", "utf-8")
    draw(folder / "c.png")
    results = {r.name: r for r in caption_folder(folder, words, overwrite=overwrite)}
    assert (folder / "a.txt").is_symlink()
    assert (tmp_path / "elsewhere.txt").read_text("utf-8") == "somebody's"
    by_hand = "by the machine" if overwrite else "by hand"
    assert texts(folder) == {"a.txt": "somebody's", "b.txt": by_hand, "c.txt": "by the machine"}
    assert "a.txt is there already" in results["a.png"].error
    assert "b.txt is there already" in results["B.png"].error
    assert "error: B.png: b.txt is there already" in report(list(results.values()))


def test_a_caption_that_appears_meanwhile_is_kept(folder):
    draw(folder / "a.png")

    def slow(pixels_hwc):
        (folder / "a.txt").write_text("typed meanwhile", "utf-8")
        return "by the machine"

    with pytest.raises(ValueError, match=r"a\.png: its caption cannot be written \(File exists\)"):
        caption_folder(folder, slow)
    assert texts(folder) == {"a.txt": "typed meanwhile"}
