"""metadata.jsonl: the captions of Hugging Face's imagefolder layout."""

import json

import pytest

from training.dataset import DatasetSettings, read_dataset


@pytest.fixture
def folder(tmp_path, pictures):
    """Four pictures, one of them in a sub-folder of a name that means nothing."""
    for n, place in enumerate(("a.png", "b.png", "c.png", "images/d.png")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes((pictures / f"p{n}.png").read_bytes())
    return tmp_path


def write(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, "utf-8")


def captions(dataset):
    return {i.path.name: i.caption for i in dataset.items}


def test_captions_by_file_name(folder):
    (folder / "c.txt").write_text("by hand", "utf-8")
    write(
        folder,
        {"file_name": "a.png", "text": "first  one"},
        "",
        {"file_name": "./b.png", "caption": "zo\u00eb", "width": 3},
        {"file_name": "c.png", "text": "not this"},
        {"file_name": "images/d.png", "text": "below"},
    )
    dataset = read_dataset(folder, DatasetSettings(trigger="t"))
    expected = {"a.png": "first one", "b.png": "zo\u00eb", "c.png": "by hand", "d.png": "below"}
    assert captions(dataset) == {name: f"t, {text}" for name, text in expected.items()}
    assert not [i for i in dataset.issues if i.severity != "hint"]


def test_several_texts_are_alternatives(folder):
    write(folder, {"file_name": "a.png", "text": ["one", "two"]})
    choose = DatasetSettings(caption_lines="choose")
    assert captions(read_dataset(folder, choose))["a.png"] == "one\ntwo"
    assert captions(read_dataset(folder))["a.png"] == "one, two"


def test_in_a_category_and_below_a_split(tmp_path, pictures):
    for place in ("attire/a.png", "train/b.png"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_bytes((pictures / "p0.png").read_bytes())
    write(tmp_path / "attire", {"file_name": "a.png", "text": "red coat"})
    write(tmp_path, {"file_name": "train/b.png", "text": "someone"})
    dataset = read_dataset(tmp_path)
    assert captions(dataset) == {"a.png": "red coat", "b.png": "someone"}
    assert {i.category for i in dataset.items} == {"attire", ""}


BROKEN = [
    ("{not json", "is not JSON"),
    ('"text"', "is no object"),
    ('["a.png"]', "is no object"),
    ("{}", 'has no "file_name"'),
    ('{"file_name": 3, "text": "x"}', 'has no "file_name"'),
    ('{"file_name": "a.png"}', "has no text: one of text, caption"),
    ('{"file_name": "a.png", "text": 7}', "has no text"),
    ('{"file_name": "../a.png", "text": "x"}', "a name relative to the folder"),
    ('{"file_name": "/etc/a.png", "text": "x"}', "a name relative to the folder"),
    ('{"file_name": "C:\\\\a.png", "text": "x"}', "a name relative to the folder"),
    ('{"file_name": "a\\u0000.png", "text": "x"}', "a name relative to the folder"),
    ("[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("line", "words"), BROKEN, ids=range(len(BROKEN)))
def test_broken_lines_are_named_and_the_others_used(folder, line, words):
    write(folder, {"file_name": "b.png", "text": "fine"}, line)
    dataset = read_dataset(folder, DatasetSettings(trigger="t"))
    assert captions(dataset)["b.png"] == "t, fine" and captions(dataset)["a.png"] == "t"
    (issue,) = [i for i in dataset.issues if "metadata" in i.path]
    assert issue.path == "metadata.jsonl line 2" and words in issue.message
    assert issue.severity == "warning" and issue.message in dataset.report()


def test_names_of_nothing_and_doubles(folder):
    write(
        folder,
        {"file_name": "gone.png", "text": "x"},
        {"file_name": "images/gone.png", "text": "x"},
        {"file_name": "a.png", "text": "first"},
        {"file_name": "a.png", "text": "second"},
    )
    dataset = read_dataset(folder)
    said = {i.path: i.message for i in dataset.issues if i.severity == "warning"}
    assert "it is not there" in said["gone.png"] and "it is not there" in said["images/gone.png"]
    assert "names 'a.png' again" in said["metadata.jsonl line 4"]
    assert captions(dataset)["a.png"] == "first"


def test_many_broken_lines_stay_few_remarks(folder):
    write(folder, *["{"] * 500)
    said = [i for i in read_dataset(folder).issues if "metadata" in i.path]
    assert len(said) == 21 and said[-1].message.startswith("480 more")
