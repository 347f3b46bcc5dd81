"""The contact sheet shows what the plan holds."""

import numpy as np
import pytest
import torch

from conditioning import make_reference
from conditioning.compose import plan_scene
from conditioning.preview import MAX_FRAMES, PART_COLOURS, preview_sheet, region_overlay
from conditioning.regions import PARTS, regions_from_poses
from tests.unit.conditioning.people import dancing, frame, standing

RED = torch.tensor([1.0, 0.0, 0.0])


def dance(count):
    rng = np.random.default_rng(0)
    return [frame(dancing(rng, 128, 128, 210)) for _ in range(count)]


def near(sheet, colour, tolerance=0.05):
    """How many pixels of a sheet have that colour."""
    return int(((sheet[0] - torch.as_tensor(colour)).abs() < tolerance).all(dim=-1).sum())


def test_overlay_has_one_colour_for_each_part():
    regions = regions_from_poses([frame(standing(128, 128, 220))])
    overlay = region_overlay(regions, 256, 256)
    assert overlay.shape == (1, 256, 256, 3)
    for part in PARTS:
        sure = regions.mask(part) > 0.999
        colour = torch.tensor(PART_COLOURS[part]) / 255
        assert sure.any(), part
        torch.testing.assert_close(
            overlay[sure], colour.expand(int(sure.sum()), 3), atol=1e-2, rtol=0
        )


def test_a_sheet_is_one_picture():
    sheet = preview_sheet(plan_scene(dance(1), 256, 256))
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[-1] == 3
    assert sheet.dtype == torch.float32
    assert 0.0 <= float(sheet.min()) and float(sheet.max()) <= 1.0


def test_references_are_shown_as_the_encoder_sees_them():
    red = RED.expand(1, 40, 20, 3)
    reference = make_reference("attire", red)
    without = preview_sheet(plan_scene(dance(1), 256, 256))
    sheet = preview_sheet(plan_scene(dance(1), 256, 256, references=[reference]))
    assert near(without, RED) < 200
    # 20 of 40 columns are the picture, the rest is padding in the encoder's mean colour.
    assert near(sheet, RED) == pytest.approx(160 * 80, rel=0.1)
    assert near(sheet, (0.481, 0.458, 0.408), 0.01) == pytest.approx(160 * 80, rel=0.2)


def test_a_plate_is_shown_with_the_people_darkened():
    plate = make_reference("background", RED.expand(1, 40, 40, 3), mode="plate")
    plan = plan_scene([frame(standing(128, 128, 200))], 256, 256, references=[plate])
    sheet = preview_sheet(plan)
    kept = float((1 - plan.plate.painted).mean())
    assert near(sheet, RED) == pytest.approx(240 * 240 * kept, rel=0.15)
    assert near(sheet, RED * 0.2) > 1000


def test_notes_and_prompts_make_the_sheet_longer():
    plan = plan_scene(dance(1), 256, 256)
    more = plan_scene(dance(1), 256, 256, prompts={"person": "a dancer in the rain"})
    heights = [preview_sheet(one).shape[1] for one in (plan, more, more.with_note("so " * 300))]
    assert heights[0] < heights[1] < heights[2]


def test_many_frames_do_not_make_it_wider():
    few = preview_sheet(plan_scene(dance(MAX_FRAMES), 256, 256))
    many = preview_sheet(plan_scene(dance(9), 256, 256))
    assert few.shape == many.shape


@pytest.mark.parametrize(("width", "height"), [(2048, 64), (64, 2048)])
def test_extreme_shapes(width, height):
    reference = make_reference("background", torch.rand(9, 5, 600, 3))
    sheet = preview_sheet(plan_scene(dance(2), width, height, references=[reference]))
    assert max(sheet.shape[1:3]) < 4000
