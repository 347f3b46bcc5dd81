"""Layouts, captions, digests and hints of a dataset folder."""

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import ValidationError

from tests.systems import WINDOWS
from training.dataset import Dataset, DatasetSettings, Issue, open_dataset, read_dataset
from training.errors import DatasetError
from training.folders import fingerprint, list_folders
from training.quality import find_near_duplicates, is_blurred, measure


def put(path: Path, caption: str | None = None, size=(64, 48), seed: int | None = None) -> Path:
    """A noise picture, different for every path, with a caption file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big") + (seed or 0)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    return path


def names(dataset: Dataset, folder: Path) -> list[str]:
    return [item.path.relative_to(folder).as_posix() for item in dataset.items]


def said(dataset: Dataset, path: str, severity: str | None = None) -> list[str]:
    """What the dataset says about a file, without the hints every small test picture gets."""
    return [
        issue.message
        for issue in dataset.issues
        if issue.path == path
        and (severity is None or issue.severity == severity)
        and "smaller than half" not in issue.message
    ]


def test_flat_folder(tmp_path):
    put(tmp_path / "a.png", "one cat", size=(80, 60))
    put(tmp_path / "b.jpg")
    put(tmp_path / "c.webp")
    (tmp_path / "c.caption").write_text("from .caption", "utf-8")
    data = read_dataset(tmp_path, DatasetSettings(trigger="zoe"), resolution=64)
    assert names(data, tmp_path) == ["a.png", "b.jpg", "c.webp"]
    assert [i.caption for i in data.items] == ["zoe, one cat", "zoe", "zoe, from .caption"]
    first = data.items[0]
    assert (first.width, first.height, first.repeats, first.category) == (80, 60, 1, "")
    assert first.trigger == "zoe" and first.path.is_absolute() and first.mask_path is None
    assert first.digest == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert data.issues == (Issue("b.jpg", "hint", 'has no caption of its own: "zoe" is used'),)


def test_relative_folder_gives_absolute_paths(tmp_path, monkeypatch):
    put(tmp_path / "set" / "a.png", "x")
    monkeypatch.chdir(tmp_path)
    assert read_dataset(Path("set")).items[0].path == tmp_path / "set" / "a.png"


def test_order_is_natural_and_stable(tmp_path):
    wanted = ["1.png", "2.png", "10.png", "A2.png", "a10.png", "b.jpg", "b2.png", "\u00e9.png"]
    for name in reversed(wanted):
        put(tmp_path / name, "x")
    assert names(read_dataset(tmp_path), tmp_path) == wanted


def test_repeat_folders(tmp_path):
    put(tmp_path / "10_zoe person" / "a.png", "smiling")
    put(tmp_path / "2_hat" / "b.png")
    put(tmp_path / "c.png", "top")
    data = read_dataset(tmp_path)
    assert [(i.caption, i.repeats, i.trigger) for i in data.items] == [
        ("top", 1, ""),
        ("hat", 2, "hat"),
        ("zoe person, smiling", 10, "zoe person"),
    ]
    typed = read_dataset(tmp_path, DatasetSettings(trigger="mira"))
    assert {i.trigger for i in typed.items} == {"mira"}
    assert any('"hat" in the folder name gives way to "mira"' in i.message for i in typed.issues)


def four_categories(folder: Path) -> None:
    put(folder / "poses" / "jump.png", "a jumping woman")
    put(folder / "Attire" / "3_redcoat" / "coat.png", "a man")
    put(folder / "characters" / "zoe" / "z.png", "zoe in a park")
    put(folder / "characters" / "other.png", "a person")
    put(folder / "backgrounds" / "street.png")


def test_four_categories(tmp_path):
    four_categories(tmp_path)
    settings = DatasetSettings(
        trigger="common",
        default_caption="a city",
        categories={
            "poses": {"trigger": "starjump", "template": "{caption} doing {trigger}"},
            "attire": {"repeats": 2},
            "characters": {"trigger": "hero"},
        },
    )
    data = read_dataset(tmp_path, settings)
    assert [(i.category, i.caption, i.repeats, i.trigger) for i in data.items] == [
        ("poses", "a jumping woman doing starjump", 1, "starjump"),
        ("attire", "wearing redcoat, a man", 6, "redcoat"),
        ("characters", "hero, a person", 1, "hero"),
        ("characters", "zoe in a park", 1, "zoe"),  # the caption names the trigger already
        ("backgrounds", "common background, a city", 1, "common"),
    ]
    report = data.report()
    assert report.startswith(f"{tmp_path.name}: 5 pictures, 10 per epoch with repeats")
    assert 'attire: 1, trigger "redcoat", 6 times per epoch' in report


def test_settings_for_a_missing_category_are_reported(tmp_path):
    put(tmp_path / "a.png", "x")
    data = read_dataset(tmp_path, DatasetSettings(categories={"attire": {"trigger": "t"}}))
    assert said(data, "attire/", "warning") == [
        "there are settings for this category, but no pictures"
    ]


def test_masks(tmp_path):
    put(tmp_path / "a.png", "x")
    put(tmp_path / "b.png", "x")
    put(tmp_path / "c.png", "x")
    Image.new("L", (64, 48), 255).save(tmp_path / "a-masklabel.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (32, 24), 255).save(tmp_path / "masks" / "b.png")
    (tmp_path / "masks" / "c.png").write_bytes(b"no picture")
    Image.new("L", (8, 8), 255).save(tmp_path / "masks" / "d.png")
    data = read_dataset(tmp_path)
    a, b, c = data.items
    assert a.mask_path == tmp_path / "a-masklabel.png" and len(a.mask_digest) == 64
    assert b.mask_path == tmp_path / "masks" / "b.png" and c.mask_path is None
    assert said(data, "a.png") == []
    assert "stretched" in said(data, "b.png", "warning")[0]
    assert "its mask is not used: not a picture" in said(data, "c.png", "warning")[0]
    assert "without a picture" in said(data, "d.png", "warning")[0]


def test_digest_is_of_what_training_sees(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        put(folder / "a.png", "x")
        put(folder / "b.png", "y")
    base = read_dataset(one)
    assert base.digest == read_dataset(two).digest  # neither place nor time count
    os.utime(one / "a.png", (1, 1))
    assert read_dataset(one).digest == base.digest
    seen = {base.digest}
    (two / "a.txt").write_text("z", "utf-8")
    seen.add(read_dataset(two).digest)
    put(two / "a.png", "x", seed=1)
    seen.add(read_dataset(two).digest)
    Image.new("L", (64, 48), 255).save(two / "a-masklabel.png")
    seen.add(read_dataset(two).digest)
    for name in ("a", "b"):
        put(two / "5_x" / f"{name}.png", name)
        (two / f"{name}.png").unlink()
    seen.add(read_dataset(two).digest)
    assert len(seen) == 5


def test_json_round_trip(tmp_path):
    four_categories(tmp_path)
    Image.new("L", (64, 48), 255).save(tmp_path / "poses" / "jump-masklabel.png")
    put(tmp_path / "\u96ea.png")
    data = read_dataset(tmp_path)
    again = Dataset.from_json(json.loads(json.dumps(data.to_json())))
    assert again == data and again.digest == data.digest and again.report() == data.report()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"version": None},
        {"items": "all"},
        {"items": [{"path": "/a.png"}]},
        {"items": [{"path": "/a.png", "caption": "x", "repeats": 0}]},
        {"items": [{"path": "/a.png", "caption": "x", "category": "hats"}]},
        {"issues": [{"path": "a", "severity": "fatal", "message": "x"}]},
    ],
)
def test_malformed_json_is_refused(change):
    data = {**Dataset(()).to_json(), **change}
    with pytest.raises(DatasetError, match=r"version|Not a dataset: (items|issues)"):
        Dataset.from_json(data)


def test_settings_travel_with_items(tmp_path):
    four_categories(tmp_path)
    data = read_dataset(tmp_path)
    settings = DatasetSettings(items=data.items)
    copied = DatasetSettings.model_validate_json(settings.model_dump_json())
    assert open_dataset(copied).digest == data.digest
    assert open_dataset(DatasetSettings(folder=str(tmp_path))) == data
    with pytest.raises(DatasetError, match=r"give dataset\.folder"):
        open_dataset(DatasetSettings())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"template": "{who}"}, "{who}"),
        ({"categories": {"hats": {}}}, "hats"),
        ({"categories": {"poses": {"repeats": 0}}}, "repeats"),
        ({"categories": {"poses": {"repeats": 1001}}}, "repeats"),
        ({"categories": {"poses": {"template": "{x.y}"}}}, "{x.y}"),
        ({"extensions": []}, "extensions"),
        ({"colour": "red"}, "colour"),
        ({"trigger": "x" * 201}, "trigger"),
    ],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(ValidationError, match=word):
        DatasetSettings(**settings)


def test_every_setting_explains_itself():
    for field in DatasetSettings.model_fields.values():
        assert field.description


def test_extensions_are_a_setting(tmp_path):
    put(tmp_path / "a.png", "x")
    put(tmp_path / "b.jpg", "x")
    data = read_dataset(tmp_path, DatasetSettings(extensions=("JPG",)))
    assert names(data, tmp_path) == ["b.jpg"]


def test_names_in_any_script_and_normal_form(tmp_path):
    put(tmp_path / "\u96ea \u5973\u738b.png").with_suffix(".txt").write_text("\u96ea", "utf-8")
    put(tmp_path / unicodedata.normalize("NFD", "Zo\u00eb.png"))
    (tmp_path / unicodedata.normalize("NFC", "Zo\u00eb.txt")).write_text("z", "utf-8")
    quotes = "'quote'" if WINDOWS else "'quote\""  # Windows has no double ones in names
    put(tmp_path / f"\U0001f600 {quotes}.png", "smile")
    put(tmp_path / "UPPER.PNG")
    (tmp_path / "UPPER.TXT").write_text("u", "utf-8")
    data = read_dataset(tmp_path, resolution=64)
    assert sorted(i.caption for i in data.items) == ["smile", "u", "z", "\u96ea"]
    assert data.issues == ()


def test_progress_counts_and_can_end_the_reading(tmp_path):
    for number in range(12):
        put(tmp_path / f"{number}.png", "x")
    calls = []
    read_dataset(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 12) for n in range(1, 13)]

    class Stop(BaseException):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        read_dataset(tmp_path, progress=stop)


def test_fingerprint_sees_every_change_below(tmp_path):
    four_categories(tmp_path)
    seen = [fingerprint(tmp_path)]
    assert fingerprint(tmp_path) == seen[0]
    coat = tmp_path / "Attire" / "3_redcoat" / "coat"
    changes = [
        lambda: put(tmp_path / "new.png"),
        lambda: coat.with_suffix(".txt").write_text("a long coat", "utf-8"),
        lambda: os.utime(coat.with_suffix(".png"), (1, 1)),
        lambda: coat.with_suffix(".png").rename(coat.with_name("coat2.png")),
        lambda: (tmp_path / "new.png").unlink(),
    ]
    for change in changes:
        change()
        seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


def test_list_of_folders_names_datasets_not_their_parts(tmp_path):
    four_categories(tmp_path / "cast")
    put(tmp_path / "more" / "deep" / "er" / "a.png")
    put(tmp_path / "more" / "10_zoe" / "a.png")
    put(tmp_path / ".hidden" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").touch()
    assert list_folders(tmp_path, (".png",)) == ["cast", "more", "more/deep/er"]
    assert list_folders(tmp_path / "missing", (".png",)) == []


PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "brick", "grass", "gravel", "moon")


def photo(name: str, side: int = 512) -> Image.Image:
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    picture.thumbnail((side, side))
    return picture


def test_near_duplicates_are_found_and_different_photos_are_not(tmp_path):
    originals = [photo(name) for name in PHOTOS]
    photo("coffee").save(tmp_path / "q.jpg", quality=50)
    copies = [
        Image.open(tmp_path / "q.jpg"),
        photo("coffee", 300),
        ImageEnhance.Brightness(photo("coffee")).enhance(1.08),
        ImageEnhance.Color(photo("coffee")).enhance(0.6),
    ]
    others = [
        photo("coffee").transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        photo("coffee").crop((100, 60, 400, 330)),
        Image.new("RGB", (200, 200), "white"),
        Image.new("RGB", (200, 200), "black"),
    ]
    traits = [measure(np.array(p.convert("RGB"))) for p in (*originals, *copies, *others)]
    coffee = PHOTOS.index("coffee")
    assert find_near_duplicates(traits) == {len(PHOTOS) + n: coffee for n in range(len(copies))}


@pytest.mark.parametrize("name", PHOTOS)
def test_blur_is_told_from_sharp(name):
    sharp = photo(name).resize((1024, 1024), Image.Resampling.LANCZOS)
    assert not is_blurred(measure(np.array(sharp)))
    assert is_blurred(measure(np.array(sharp.filter(ImageFilter.GaussianBlur(8)))))


def test_hints_in_the_report(tmp_path):
    photo("coffee").save(tmp_path / "a.png")
    photo("coffee").filter(ImageFilter.GaussianBlur(9)).save(tmp_path / "blurred.png")
    photo("coffee").save(tmp_path / "copy.jpg", quality=70)
    (tmp_path / "same.png").write_bytes((tmp_path / "a.png").read_bytes())
    photo("rocket", 200).save(tmp_path / "small.png")
    data = read_dataset(tmp_path, DatasetSettings(trigger="t"), resolution=512)
    assert len(data.items) == 5
    report = data.report()
    assert "blurred.png: blurred" in report
    assert "copy.jpg: looks nearly the same as a.png" in report
    assert "same.png: the same file as a.png" in report
    assert "small.png: smaller than half of 512 px" in report
    assert "a.png, blurred.png, copy.jpg, same.png and 1 more: has no caption" in report


def test_duplicates_can_be_left_out(tmp_path):
    """Exact and near copies go, the first stays; another category keeps its own."""
    photo = Image.fromarray(skimage.data.astronaut())
    for place in ("a.png", "b.jpg", "attire/c.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / place)
    photo.resize((300, 300)).save(tmp_path / "d.png")
    for name in ("plain1.png", "plain2.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "e.png")
    every = read_dataset(tmp_path)
    data = read_dataset(tmp_path, DatasetSettings(skip_duplicates=True))
    assert len(every.items) == 7
    assert [i.path.name for i in data.items] == ["a.png", "e.png", "plain1.png", "c.png"]
    left_out = {i.path: i.message for i in data.issues if "left out" in i.message}
    assert left_out == {
        "b.jpg": "left out: nearly the same as a.png",
        "d.png": "left out: nearly the same as a.png",
        "plain2.png": "left out: nearly the same as plain1.png",
    }
