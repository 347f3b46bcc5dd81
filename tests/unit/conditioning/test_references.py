"""References: what reaches the image encoder, and which inputs are refused."""

import pytest
import torch

from conditioning import ROLES, SceneError, make_reference
from conditioning.references import CLIP_MEAN_RGB, FITS
from conditioning.regions import REGIONS

MEAN = torch.tensor(CLIP_MEAN_RGB)


def pictures(height=40, width=24, count=1, channels=3):
    torch.manual_seed(0)
    return torch.rand(count, height, width, channels)


def test_every_role_names_a_region_layers_and_steps():
    assert set(ROLES) == {"character", "attire", "background"}
    for name, role in ROLES.items():
        assert role.name == name and role.help
        assert {role.region, role.region_alone} <= set(REGIONS) and role.fit in FITS
        assert 0 <= role.start_percent < role.end_percent <= 1
        # SDXL has transformer blocks 0..10 in execution order.
        assert set(role.layer_weights) <= set(range(11))


def test_a_garment_is_silent_in_the_composition_layer():
    assert ROLES["attire"].layer_weights.get(3, 0.0) == 0.0


def test_defaults_come_from_the_role():
    reference = make_reference("character", pictures())
    role = ROLES["character"]
    assert reference.region is None
    assert reference.layer_weights == role.layer_weights
    assert (reference.start_percent, reference.end_percent) == (0.0, 1.0)
    assert reference.weight == 1.0 and reference.fit == "pad"


@pytest.mark.parametrize(("height", "width"), [(40, 24), (24, 40), (41, 24), (33, 33)])
def test_padding_keeps_every_pixel(height, width):
    source = pictures(height, width, count=2)
    seen = make_reference("attire", source).prepared_images()
    side = max(height, width)
    assert seen.shape == (2, side, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    assert torch.equal(seen[:, top : top + height, left : left + width], source)
    outside = torch.ones(side, side, dtype=torch.bool)
    outside[top : top + height, left : left + width] = False
    assert torch.equal(seen[:, outside], MEAN.expand(2, int(outside.sum()), 3))


def test_padding_is_zero_after_the_normalisation_of_clip():
    seen = make_reference("attire", torch.ones(1, 20, 10, 3)).prepared_images()
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert float(((seen - MEAN) / std)[0, 10, 0].abs().max()) == 0.0


def test_crop_only_when_asked_for():
    source = pictures(40, 24)
    seen = make_reference("attire", source, fit="crop").prepared_images()
    assert torch.equal(seen, source[:, 8:32])


def test_stretch_shows_the_whole_picture():
    source = torch.zeros(1, 10, 40, 3)
    source[:, :, 20:] = 1.0
    seen = make_reference("background", source).prepared_images()
    assert seen.shape == (1, 40, 40, 3)
    assert float(seen[:, :, :16].max()) < 0.01 and float(seen[:, :, 24:].min()) > 0.99


def test_mask_cuts_out_and_frames_the_subject():
    source = torch.ones(1, 100, 100, 3)
    mask = torch.zeros(1, 100, 100)
    mask[:, 10:70, 40:60] = 1.0
    seen = make_reference("attire", source, mask=mask).prepared_images()[0]
    side = seen.shape[0]
    assert 60 < side < 70 and seen.shape == (side, side, 3)
    white = (seen == 1.0).all(dim=-1)
    assert int(white.sum()) == 60 * 20
    assert torch.equal(seen[~white], MEAN.expand(int((~white).sum()), 3))


def test_masks_of_other_sizes_and_counts():
    source = pictures(64, 64, count=3)
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1.0
    seen = make_reference("attire", source, mask=mask).prepared_images()
    assert seen.shape[0] == 3 and seen.shape[1] == seen.shape[2]
    # Three subjects of three sizes end up in one batch.
    masks = torch.zeros(3, 64, 64)
    for index, side in enumerate((16, 32, 48)):
        masks[index, :side, :side] = 1.0
    seen = make_reference("attire", source, mask=masks).prepared_images()
    assert seen.shape[0] == 3 and 48 <= seen.shape[1] <= 52
    assert float(seen.min()) >= 0.0 and float(seen.max()) <= 1.0


def test_alpha_is_a_mask():
    source = pictures(50, 50, channels=4)
    source[..., 3] = 0.0
    source[:, 20:30, 20:30, 3] = 1.0
    seen = make_reference("character", source).prepared_images()
    assert seen.shape[1] < 20 and seen.shape[-1] == 3


def test_gray_becomes_rgb():
    seen = make_reference("attire", pictures(20, 20, channels=1)).prepared_images()
    assert seen.shape == (1, 20, 20, 3)


def test_the_given_tensors_are_left_alone():
    source, mask = pictures(), torch.ones(1, 40, 24)
    before = source.clone(), mask.clone()
    reference = make_reference("attire", source, mask=mask)
    reference.prepared_images().zero_()
    assert torch.equal(source, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region": "torso"}, "region 'torso'.*upper"),
        ({"fit": "zoom"}, "fit"),
        ({"combine": "multiply"}, "combine"),
        ({"mode": "plate"}, "background"),
        ({"weight": float("nan")}, "weight"),
        ({"start_percent": 0.9, "end_percent": 0.5}, "start_percent <= end_percent"),
        ({"end_percent": 1.5}, "0..1"),
        ({"mask": torch.zeros(1, 40, 24)}, "empty.*invert"),
        ({"mask": torch.ones(3, 40, 24)}, "one mask"),
        ({"mask": torch.ones(1, 1, 40, 24)}, "one mask"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(SceneError, match=words):
        make_reference("character", pictures(), **options)


@pytest.mark.parametrize(
    "images", [None, torch.rand(3, 4, 4), torch.rand(1, 4, 4, 2), torch.rand(0, 4, 4, 3)]
)
def test_what_is_not_a_picture_is_named(images):
    with pytest.raises(SceneError, match="attire reference needs pictures"):
        make_reference("attire", images)


def test_unknown_role():
    with pytest.raises(SceneError, match="character, attire, background"):
        make_reference("prop", pictures())
