"""LoRAs, films and poses in ComfyUI's folders: nothing is overwritten, nothing finished is lost."""

import errno
import importlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

POSE = [{"people": [], "canvas_width": 64, "canvas_height": 64}]


@pytest.fixture
def house(pack, monkeypatch) -> SimpleNamespace:
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)  # a class that no prompt runs has none

    def part(name: str):
        return importlib.import_module(f"{pack.__name__}.{name}")

    return SimpleNamespace(
        loras=part("nodes.runtime.loras"),
        lazy=part("nodes.runtime.lazy_video"),
        training=part("nodes.training"),
        pose=part("nodes.pose"),
        film=part("nodes.video"),
        video=part("video"),
        files=part("video.wholefile"),
        whole=part("training.wholefile"),
    )


@pytest.fixture
def film(house):
    source = house.video.pictures_from_tensor(torch.rand(5, 32, 32, 3))
    return house.lazy.LazyVideo(house.video.assemble([house.video.Shot(source)], 24))


def refuse(*_, **__):
    raise PermissionError(errno.EACCES, "Access is denied")


def full(source, target, **_) -> None:
    Path(target).write_bytes(Path(source).read_bytes()[:3])
    raise OSError(errno.ENOSPC, "No space left on device")


def frames(path: Path) -> int:
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def save(house, film, **inputs) -> Path:
    shown = house.film.TroupeSaveVideo.execute(film, "films/take", "h264_draft", **inputs)
    return Path(shown.result[1])


def test_loras_kept_at_the_same_time_under_one_name_are_all_there(house, sandbox):
    files = []
    for number in range(12):
        files.append(sandbox.outside / f"{number}.safetensors")
        files[-1].write_bytes(b"%d" % (number // 2) * 1000)  # each content twice
    root = sandbox.output / "loras"
    with ThreadPoolExecutor(12) as pool:
        kept = list(pool.map(lambda f: house.loras.keep_lora(f, root / "cast", "zoe", root), files))
    for file, name in zip(files, kept, strict=True):
        assert (root / name).read_bytes() == file.read_bytes()
    assert {p.read_bytes() for p in root.rglob("*") if p.is_file()} == {
        f.read_bytes() for f in files
    }
    before = sorted(root.rglob("*"))
    assert house.loras.keep_lora(files[0], root / "cast", "zoe", root) in kept  # its own name
    assert sorted(root.rglob("*")) == before


def test_a_full_disk_leaves_nothing_in_the_lora_folder(house, sandbox, monkeypatch):
    file = sandbox.outside / "lora.safetensors"
    file.write_bytes(b"finished")
    root = sandbox.output / "loras"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(house.loras.LoraError, match="No space left.*finished file is") as said:
            house.loras.keep_lora(file, root, "zoe", root)
    assert str(file) in str(said.value) and list(root.iterdir()) == []
    assert house.loras.keep_lora(file, root, "zoe", root) == "zoe.safetensors"


def test_a_folder_that_takes_no_lora_is_found_out_before_the_training(house, sandbox, monkeypatch):
    root = sandbox.output / "loras"
    root.mkdir()
    (root / "zoe.safetensors").write_bytes(b"an earlier one, which is no bar")
    house.loras.check_lora_folder(root, "zoe")
    house.loras.check_lora_folder(root, "new")
    assert [p.name for p in root.iterdir()] == ["zoe.safetensors"]
    (root / "file").write_bytes(b"")
    with pytest.raises(house.loras.LoraError, match="filename_prefix: no LoRA can be written"):
        house.loras.check_lora_folder(root / "file", "zoe")


def test_a_film_is_never_deleted_after_its_encoding(house, film, sandbox, monkeypatch):
    monkeypatch.setattr(house.files, "PATIENCE_SECONDS", 0.1)
    target = sandbox.output / "film.mp4"
    target.write_bytes(b"open in a player")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(house.video.VideoError, match="Another program has film.mp4 open"):
            film.write(str(target), house.video.preset_named("h264_draft"))
    assert frames(sandbox.output / "film (finished).mp4") == 5
    assert target.read_bytes() == b"open in a player"


def test_save_film_takes_a_number_nobody_else_has(house, film, sandbox):
    folder = sandbox.output / "films"
    folder.mkdir()
    with house.files.whole_file(folder / "take_00001_.mp4", new=True) as other:
        other.write_bytes(b"of another server")
        assert save(house, film).name == "take_00002_.mp4"  # as core counts
    other_film = house.lazy.LazyVideo(film.film)
    write = other_film.write
    numbers = []

    def late(path, **settings):
        """Between the counting and the writing another server has taken the number."""
        numbers.append(path.name)
        if len(numbers) == 1:
            path.write_bytes(b"of another server")
        write(path, **settings)

    other_film.write = late
    assert save(house, other_film).name == "take_00004_.mp4"
    assert numbers == ["take_00003_.mp4", "take_00004_.mp4"]
    assert (folder / "take_00003_.mp4").read_bytes() == b"of another server"
    names = [p.name for p in folder.iterdir()]
    assert len(names) == 4 and not [n for n in names if n.endswith(".part")]


def test_a_killed_server_s_films_and_poses_are_cleared_up(house, film, sandbox):
    folder = sandbox.output / "films"
    folder.mkdir()
    left = folder / f"take_00001_.mp4.1{house.files.PART}"
    left.write_bytes(b"half a film")
    foreign = folder / "take.mp4.part"
    foreign.write_bytes(b"a download")
    assert save(house, film).name == "take_00002_.mp4"  # core counts what lies there
    assert not left.exists() and foreign.exists()
    left = sandbox.output / f"p_00007_.json.1{house.files.PART}"
    left.write_bytes(b"half")
    house.pose.TroupeSavePose.execute(pose=POSE, filename_prefix="p")
    assert [p.name for p in sandbox.output.glob("p_*")] == ["p_00008_.json"]
    assert len(json.loads((sandbox.output / "p_00008_.json").read_text())) == 1


@pytest.mark.parametrize("metadata", [None, {"prompt": "other"}], ids=["copy", "rewrite"])
def test_an_earlier_film_that_cannot_be_read_is_encoded_anew(
    house, film, sandbox, monkeypatch, metadata
):
    preset = house.video.preset_named("h264_draft")
    first = sandbox.output / "first.mp4"
    film.write(first, preset)
    monkeypatch.setattr(house.lazy._Saved, "untouched", lambda self: True)
    shutil.copystat(first, sandbox.secret)
    first.unlink()
    first.write_bytes(b"torn") if metadata else None
    film.write(sandbox.output / "second.mp4", preset, metadata=metadata)
    assert frames(sandbox.output / "second.mp4") == 5
