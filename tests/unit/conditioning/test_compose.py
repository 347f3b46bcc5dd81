"""Scene plans: what acts where, for which frame, and which inputs are refused."""

import numpy as np
import pytest
import torch

from conditioning import SceneError, make_reference, regions_from_poses
from conditioning.compose import SceneOptions, covering, plan_scene
from conditioning.pose import PoseError, draw_pose, resize_pose
from conditioning.silhouette import Margins
from tests.unit.conditioning.people import dancing, frame, standing

RNG = np.random.default_rng(0)


def dance(count):
    return [frame(dancing(RNG, 128, 128, 210)) for _ in range(count)]


def picture(height=32, width=32, count=1):
    torch.manual_seed(0)
    return torch.rand(count, height, width, 3)


def plan(poses=None, width=256, height=256, references=(), prompts=None, regions=None, **options):
    return plan_scene(
        poses or dance(1),
        width,
        height,
        references=references,
        prompts=prompts,
        regions=regions,
        options=SceneOptions(**options),
    )


def test_a_pose_becomes_a_control_picture_and_masks_on_the_latent_grid():
    poses = dance(3)
    made = plan(poses, 320, 192, [make_reference("attire", picture())], {"person": "a dancer"})
    assert made.grid == (24, 40)
    assert made.hint_nhwc.shape == (3, 192, 320, 3) and made.hint_nhwc.dtype == torch.float32
    drawn = draw_pose(resize_pose(poses[1], 320, 192))
    assert np.array_equal((made.hint_nhwc[1].numpy() * 255).round().astype(np.uint8), drawn)
    for mask in (made.references[0].mask, made.prompts[0].mask, made.control_map):
        assert mask.shape == (3, 24, 40)
        assert float(mask.min()) >= 0.0 and float(mask.max()) <= 1.0
    assert made.indices == (0, 1, 2) and not made.notes


def test_all_masks_come_from_the_same_regions():
    references = [make_reference(role, picture()) for role in ("character", "attire", "background")]
    made = plan(references=references, prompts={"outfit": "a red coat", "background": "a street"})
    own = made.regions
    by_role = {placed.reference.role.name: placed for placed in made.references}
    for role, region in (
        ("character", "head"),
        ("attire", "outfit"),
        ("background", "background"),
    ):
        assert by_role[role].region == region
        assert torch.equal(by_role[role].mask, own.mask(region, 32, 32))
    for prompt in made.prompts:
        assert torch.equal(prompt.mask, own.mask(prompt.region, 32, 32))


def test_a_character_without_attire_speaks_for_the_whole_person():
    alone = plan(references=[make_reference("character", picture())])
    assert alone.references[0].region == "person"
    chosen = plan(references=[make_reference("character", picture(), region="head")])
    assert chosen.references[0].region == "head"
    silent = make_reference("attire", picture(), weight=0.0)
    beside = plan(references=[make_reference("character", picture()), silent])
    assert [placed.region for placed in beside.references] == ["person"]


def test_a_reference_of_one_person():
    pose = frame(standing(70, 128, 200), standing(190, 128, 200))
    one = make_reference("attire", picture(), person=1)
    mask = plan([pose], references=[one]).references[0].mask[0]
    assert float(mask[:, :14].max()) < 0.01 and float(mask[:, 18:].max()) > 0.99


@pytest.mark.parametrize(("first", "count", "expected"), [
    (0, 0, [0, 1, 2, 3, 4]), (2, 0, [2, 3, 4]), (1, 2, [1, 2]), (4, 9, [4]),
])  # fmt: skip
def test_chosen_frames(first, count, expected):
    poses = dance(5)
    made = plan(poses, first_frame=first, frame_count=count)
    assert list(made.indices) == expected and len(made.frames) == len(expected)
    whole = plan(poses)
    assert torch.equal(made.hint_nhwc, whole.hint_nhwc[expected])
    assert torch.equal(made.control_map, whole.control_map[expected])


def test_pictures_per_frame_follow_the_chosen_frames():
    pictures = picture(count=4)
    one = make_reference("character", pictures, combine="per frame")
    made = plan(dance(4), references=[one], first_frame=1, frame_count=2)
    assert torch.equal(made.references[0].reference.images, pictures[1:3])
    options = made.references[0].reference.attention_options()
    assert options["per_frame"] is True and options["combine"] == "concat"
    ready = make_reference("character", pictures[:2], combine="per frame")
    assert len(plan(dance(4), references=[ready], frame_count=2).references[0].mask) == 2
    with pytest.raises(SceneError, match="4 pictures for 3 poses"):
        plan(dance(3), references=[one])


def test_frames_have_noise_of_their_own_or_all_the_same():
    assert plan(dance(4), first_frame=1, frame_count=2).noise_indices == (1, 2)
    assert plan(dance(4), first_frame=1, shared_noise=True).noise_indices == (0, 0, 0)


def test_control_is_strong_around_people_and_weak_elsewhere():
    made = plan([frame(standing(128, 128, 200))], pose_outside=0.25)
    person = made.regions.mask("person", 32, 32)
    assert float(made.control_map[person > 0.01].min()) > 0.99
    assert float(made.control_map.min()) == 0.25
    assert float(made.control_map[0, 0, 0]) == 0.25
    assert plan(pose_outside=1.0).control_map is None


def test_a_plate_fills_the_canvas_and_is_painted_over_where_people_are():
    plate = make_reference("background", picture(100, 300), mode="plate")
    made = plan(dance(2), 256, 256, [plate, make_reference("attire", picture())])
    assert made.plate.images.shape == (1, 256, 256, 3)
    person = made.regions.mask("person", 32, 32)
    assert float((person - made.plate.painted).max()) <= 1e-6
    assert float(made.plate.painted.min()) == 0.0
    # A plate needs no IP-Adapter.
    assert [placed.reference.role.name for placed in made.references] == ["attire"]
    moving = make_reference("background", picture(64, 64, 5), mode="plate")
    assert len(plan(dance(5), references=[moving], first_frame=3).plate.images) == 2
    with pytest.raises(SceneError, match="5 pictures for 2 poses"):
        plan(dance(2), references=[moving])
    with pytest.raises(SceneError, match="Only one background"):
        plan(references=[plate, moving])


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100), (64, 64), (65, 63)])
def test_covering_keeps_proportions_and_the_middle(height, width):
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    source = torch.stack([rows, columns, rows], dim=-1)
    out = covering(source, 128, 64)
    assert out.shape == (64, 128, 3)
    assert out[31:33, 63:65, :2].mean(dim=(0, 1)).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_sizes_are_brought_to_the_latent_grid_with_a_note():
    made = plan(width=250, height=261)
    assert (made.width, made.height) == (248, 264)
    assert "250 x 261 became 248 x 264" in made.notes[0]


def test_frames_without_people_are_named():
    made = plan([frame(), *dance(1), frame()], references=[make_reference("attire", picture())])
    assert "frame 0, 2" in made.notes[0]
    assert float(made.references[0].mask[0].max()) == 0.0
    assert float(made.references[0].mask[1].max()) > 0.99


def test_empty_prompts_are_left_out():
    made = plan(prompts={"person": "  ", "outfit": "", "background": " a hall "})
    assert [(p.region, p.text) for p in made.prompts] == [("background", "a hall")]


def test_regions_made_elsewhere_are_used():
    poses = dance(3)
    own = regions_from_poses(poses, 256, 256, margins=Margins(clothes=2.0))
    made = plan(poses, regions=own, references=[make_reference("attire", picture())],
                first_frame=1)  # fmt: skip
    assert torch.equal(made.references[0].mask, own.mask("outfit", 32, 32)[1:])
    with pytest.raises(SceneError, match="256 x 256 pixels, the scene has 512 x 256"):
        plan(poses, 512, 256, regions=own)
    with pytest.raises(SceneError, match="3 poses, the scene has 2"):
        plan(poses[:2], regions=own)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 8}, "width is 8"),
        ({"height": 100_000}, "height is 100000"),
        ({"first_frame": 1}, "first_frame is 1.*1 pose"),
        ({"first_frame": -1}, "first_frame is -1"),
        ({"frame_count": -2}, "frame_count is -2"),
        ({"pose_outside": 1.5}, "pose_outside is 1.5"),
        ({"prompts": {"torso": "x"}}, "region 'torso'"),
    ],
)
def test_bad_inputs_are_named(arguments, words):
    with pytest.raises(SceneError, match=words):
        plan(**arguments)


def test_no_pose_and_unknown_styles_are_named():
    with pytest.raises(SceneError, match="no pose"):
        plan_scene([], 256, 256)
    with pytest.raises(PoseError, match="style"):
        plan(pose_style="crayon")
    with pytest.raises(PoseError, match="fit"):
        plan(width=512, fit="zoom")
