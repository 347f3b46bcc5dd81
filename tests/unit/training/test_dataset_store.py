"""Pictures from memory become files named by content, and an ordinary dataset."""

import os

import numpy as np
import pytest
import skimage.data

from tests.systems import needs_limits
from training.buckets import place_mask, plan_buckets
from training.dataset import DatasetSettings, read_dataset
from training.errors import DatasetError
from training.images import MATTE, load_image
from training.store import keep_pictures

SETTINGS = DatasetSettings(trigger="zoe")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    photos = (skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut())
    return [p[:200, :260].astype(np.float32) / 255 for p in photos]


def files(root) -> dict[str, bytes]:
    found = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}


def test_pictures_are_kept_exactly(tmp_path, pictures):
    data = keep_pictures(tmp_path, pictures, ["a cat", "", "a woman"], SETTINGS)
    assert [i.caption for i in data.items] == ["zoe, a cat", "zoe", "zoe, a woman"]
    for item, picture in zip(data.items, pictures, strict=True):
        kept = load_image(item.path, item.digest)
        assert np.array_equal(kept, np.rint(picture * 255).astype(np.uint8))
        assert (item.height, item.width) == picture.shape[:2]


def test_same_pictures_same_place_and_nothing_rewritten(tmp_path, pictures):
    first = keep_pictures(tmp_path, pictures, ["x"], SETTINGS)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    again = keep_pictures(tmp_path, pictures, ["other"], SETTINGS, category="poses", repeats=3)
    assert [i.path for i in again.items] == [i.path for i in first.items]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == before
    assert again.digest != first.digest
    assert {(i.caption, i.category, i.repeats) for i in again.items} == {
        ("zoe pose, other", "poses", 3)
    }
    other = keep_pictures(tmp_path, pictures[:2], ["x"], SETTINGS)
    assert other.items[0].path.parent != first.items[0].path.parent


def test_a_deleted_file_comes_back(tmp_path, pictures):
    data = keep_pictures(tmp_path, pictures, ["x"], SETTINGS)
    kept = files(tmp_path)
    data.items[1].path.unlink()
    assert keep_pictures(tmp_path, pictures, ["x"], SETTINGS) == data
    assert files(tmp_path) == kept


def test_masks_lie_beside_and_empty_ones_are_named(tmp_path, pictures):
    half = np.zeros((200, 260), np.float32)
    half[:, :130] = 1
    small = half[::4, ::4]
    masks = [half, np.zeros((64, 64), np.float32), small]
    data = keep_pictures(tmp_path, pictures, ["x"], SETTINGS, masks)
    assert [i.mask_path is None for i in data.items] == [False, True, False]
    assert [i.path for i in data.issues if "mask is empty" in i.message] == ["0002.png"]
    for index in (0, 2):
        (placement,) = plan_buckets([data.items[index]], 128)
        mask = place_mask(placement).numpy()
        third = mask.shape[1] // 3
        assert mask[:, :third].min() > 0.9 and mask[:, -third:].max() < 0.1
    # the folder reads as a dataset of its own, masks included
    folder = read_dataset(data.items[0].path.parent, SETTINGS)
    assert [i.mask_digest for i in folder.items] == [i.mask_digest for i in data.items]


def test_gray_and_transparent_batches(tmp_path, pictures):
    gray = pictures[0][..., :1]
    clear = np.dstack([pictures[0], np.zeros((200, 260), np.float32)])
    beyond = pictures[0] * 3 - 1
    data = keep_pictures(tmp_path, [gray, clear, beyond], ["x"], SETTINGS)
    kept = [load_image(i.path) for i in data.items]
    assert (kept[0] == kept[0][..., :1]).all() and kept[0].std() > 10
    assert (kept[1] == MATTE).all()
    assert np.array_equal(kept[2], np.rint(np.clip(beyond, 0, 1) * 255))


@pytest.mark.parametrize(
    ("images", "captions", "masks", "words"),
    [
        ([], ["x"], [], "No pictures: connect"),
        ([np.zeros((8, 8, 3))] * 3, ["x", "y"], [], "2 captions for 3 pictures: give one for all"),
        ([np.zeros((8, 8, 3))] * 3, ["x"], [np.ones((8, 8))] * 2, "2 masks for 3 pictures"),
        ([np.zeros((8, 8, 2))], ["x"], [], r"Picture 1 has shape \(8, 8, 2\)"),
        ([np.zeros((0, 8, 3))], ["x"], [], "Picture 1 has shape"),
        ([np.zeros((8, 8))], ["x"], [], "Picture 1 has shape"),
        ([np.full((8, 8, 3), np.nan)], ["x"], [], "Picture 1 holds values that are not numbers"),
        ([np.zeros((8, 8, 3))], ["x"], [np.ones((1, 8, 8))], "Mask 1 has shape"),
    ],
)
def test_wrong_input_is_named_before_anything_is_written(tmp_path, images, captions, masks, words):
    with pytest.raises(DatasetError, match=words):
        keep_pictures(tmp_path / "store", images, captions, SETTINGS, masks)
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written(tmp_path, pictures):
    (tmp_path / "store").write_text("in the way", "utf-8")
    with pytest.raises(DatasetError, match="Cannot keep the pictures"):
        keep_pictures(tmp_path / "store", pictures, ["x"], SETTINGS)


@needs_limits
def test_no_half_file_after_a_failed_write(tmp_path, pictures):
    import resource
    import subprocess
    import sys

    code = (
        "import numpy as np, signal, pathlib, training.store as s\n"
        "from training.dataset import DatasetSettings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "noise = np.random.default_rng(0).random((200, 200, 3))\n"
        f"s.keep_pictures(pathlib.Path({str(tmp_path / 'store')!r}), [noise], ['x'], "
        "DatasetSettings())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        # files may not grow beyond 50 kB, like a disk that is full
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert "DatasetError: Cannot keep the pictures (File too large)" in done.stderr
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []
