"""The contact sheet shows every picture where it belongs, and what its bucket cuts off."""

import numpy as np
import pytest
from PIL import Image

from training.buckets import plan_buckets
from training.errors import DatasetError
from training.records import Dataset, DatasetItem
from training.sheet import LINE, PAD, PAPER, THUMB, contact_sheet

CELL_W = THUMB + PAD
COLOURS = [(220, 30, 30), (30, 200, 30), (40, 60, 230), (200, 200, 30), (30, 200, 200)]


@pytest.fixture
def coloured(tmp_path):
    """Makes datasets of plain pictures, one colour each."""

    def make(count: int, size=(320, 320), caption="a caption", **more) -> Dataset:
        items = []
        for number in range(count):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", size, COLOURS[number % len(COLOURS)]).save(path)
            items.append(DatasetItem(path, caption, width=size[0], height=size[1], **more))
        return Dataset(tuple(items))

    return make


def cell(sheet: np.ndarray, column: int, row: int) -> np.ndarray:
    height = (sheet.shape[0] - PAD) // max(1, round((sheet.shape[0] - PAD) / (THUMB + 3 * LINE)))
    top, left = PAD + row * height, PAD + column * CELL_W
    return sheet[top : top + THUMB, left : left + THUMB]


def test_every_picture_has_its_cell(coloured):
    sheet = contact_sheet(coloured(5))
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[1] == 3 * CELL_W + PAD
    for number in range(5):
        centre = cell(sheet, number % 3, number // 3)[THUMB // 2, THUMB // 2]
        assert np.abs(centre.astype(int) - COLOURS[number]).max() <= 1


def test_it_is_the_same_every_time(coloured):
    data = coloured(4, category="attire", repeats=3)
    plan = plan_buckets(data.items, 256)
    assert np.array_equal(contact_sheet(data, plan), contact_sheet(data, plan))


def test_text_is_drawn_below_the_picture(coloured):
    with_text = contact_sheet(coloured(1, caption="a red wall"))
    without = contact_sheet(coloured(1, caption=""))
    assert np.array_equal(with_text[: PAD + THUMB], without[: PAD + THUMB])
    below = (with_text != without).any(axis=2)
    rows, columns = np.nonzero(below)
    assert below.sum() > 50 and rows.min() > PAD + THUMB and columns.max() < PAD + THUMB


def test_what_the_bucket_cuts_off_is_dark(coloured):
    data = coloured(1, size=(600, 100))
    plan = plan_buckets(data.items, 128, step=64)  # 256x64, 384x64 before the sides are cut
    (placement,) = plan
    left = placement.crop_left_top[0] / placement.resized[0] * THUMB
    middle = cell(contact_sheet(data, plan), 0, 0)[THUMB // 2]
    assert left > 20
    assert np.abs(middle[int(left) + 3].astype(int) - COLOURS[0]).max() <= 1
    assert np.abs(middle[int(left) - 3].astype(int) - np.array(COLOURS[0]) // 4).max() <= 1


def test_many_pictures_are_spread_and_counted(coloured):
    data = coloured(30)
    few = contact_sheet(data, max_pictures=6)
    assert few.shape[1] == 3 * CELL_W + PAD
    footer = few[-(LINE + PAD) :]
    assert (footer != PAPER).any(axis=2).sum() > 20  # "and 24 more"
    assert np.abs(cell(few, 1, 0)[90, 90].astype(int) - COLOURS[5 % 5]).max() <= 1


@pytest.mark.parametrize("size", [(5000, 10), (10, 5000), (1, 1), (7, 3)])
def test_extreme_shapes(coloured, size):
    data = coloured(1, size=size)
    assert contact_sheet(data, plan_buckets(data.items, 512)).shape[1] == CELL_W + PAD


@pytest.mark.parametrize("caption", ["x" * 900, "\u96ea\u5973\u738b " * 40, "a\tb", "\U0001f600"])
def test_any_caption_fits(coloured, caption):
    sheet = contact_sheet(coloured(1, caption=caption))
    assert (sheet[:, -PAD + 2 :] == PAPER).all()


def test_vanished_picture_is_an_empty_cell_and_no_pictures_an_error(coloured):
    data = coloured(2)
    data.items[0].path.unlink()
    sheet = contact_sheet(data)
    assert np.abs(cell(sheet, 1, 0)[90, 90].astype(int) - COLOURS[1]).max() <= 1
    with pytest.raises(DatasetError, match="add pictures"):
        contact_sheet(Dataset(()))


@pytest.mark.parametrize("inverted", [False, True])
def test_what_a_mask_leaves_out_is_grey(coloured, tmp_path, inverted):
    mask = np.zeros((320, 320), np.uint8)
    mask[:, :160] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    more = {"mask_path": tmp_path / "mask.png", "mask_inverted": inverted}
    shown = cell(contact_sheet(coloured(1, **more)), 0, 0)
    left, right = shown[THUMB // 2, 20].astype(int), shown[THUMB // 2, -20].astype(int)
    learnt, rest = (right, left) if inverted else (left, right)
    assert np.abs(learnt - COLOURS[0]).max() <= 1 and np.ptp(rest) == 0


def test_alternatives_stand_on_one_line(coloured):
    contact_sheet(coloured(1, caption="one\ntwo, three"))
