"""Regions from skeletons: what must hold for every pose, and for the poses that go wrong."""

import numpy as np
import pytest
import torch

from conditioning import SceneError
from conditioning.pose import BODY_NAMES, Person, PoseFrame
from conditioning.regions import ORDERS, PARTS, REGIONS, UNIONS, regions_from_poses
from conditioning.silhouette import Margins
from tests.unit.conditioning.people import HEAD, LEGS, dancing, frame, standing

REGION_OF_JOINT = {
    **dict.fromkeys(("nose", "right_eye", "left_eye", "right_ear", "left_ear"), "head"),
    **dict.fromkeys(("neck", "right_shoulder", "left_shoulder"), "upper"),
    **dict.fromkeys(("right_elbow", "left_elbow"), "upper"),
    **dict.fromkeys(("right_hip", "left_hip", "right_knee", "left_knee"), "lower"),
    **dict.fromkeys(("right_wrist", "left_wrist"), "hands"),
    **dict.fromkeys(("right_ankle", "left_ankle"), "feet"),
}


def at(mask: torch.Tensor, point: np.ndarray) -> float:
    """The value of a mask (H, W) in the pixel that holds a point."""
    return float(mask[int(point[1]), int(point[0])])


def dancers(count: int, seed: int = 0) -> list[PoseFrame]:
    rng = np.random.default_rng(seed)
    return [
        frame(*(dancing(rng, *rng.uniform((0, 60, 60), (256, 200, 260))) for _ in range(n % 4)))
        for n in range(count)
    ]


def assert_partition(regions, width=0, height=0):
    total = sum(regions.mask(part, width, height) for part in PARTS)
    assert float((total - 1).abs().max()) <= 1e-6
    for name in REGIONS:
        mask = regions.mask(name, width, height)
        assert mask.dtype == torch.float32
        assert float(mask.min()) >= 0.0 and float(mask.max()) <= 1.0


def test_parts_share_every_pixel_of_random_crowds():
    regions = regions_from_poses(dancers(24))
    assert_partition(regions)
    assert_partition(regions, 32, 32)
    assert_partition(regions, 31, 57)


def test_masks_hold_all_regions_and_unions_are_sums():
    masks = regions_from_poses(dancers(3)).masks
    assert tuple(masks) == REGIONS
    for name, parts in UNIONS.items():
        torch.testing.assert_close(masks[name], sum(masks[p] for p in parts), atol=1e-6, rtol=0)
    torch.testing.assert_close(masks["person"], 1 - masks["background"], atol=1e-6, rtol=0)
    assert masks["head"].shape == (3, 256, 256)


def test_joints_lie_in_their_region():
    person = standing(128, 128, 210)
    masks = regions_from_poses([frame(person)]).masks
    for name, point in zip(BODY_NAMES, person.body, strict=True):
        assert at(masks[REGION_OF_JOINT[name]][0], point) > 0.9, name


def test_no_joint_of_a_dancer_is_background():
    rng = np.random.default_rng(1)
    for _ in range(30):
        person = dancing(rng, 128, 128, 200)
        background = regions_from_poses([frame(person)]).mask("background")[0]
        for name, point in zip(BODY_NAMES, person.body, strict=True):
            if 0 <= point[0] < 256 and 0 <= point[1] < 256:
                assert at(background, point) < 0.01, name


def test_no_background_shines_through_the_seams_of_a_body():
    masks = regions_from_poses([frame(standing(128, 128, 220))]).masks
    background = masks["background"][0]
    # From the middle of the head down to the hips, then down the right leg.
    for x, y in [(128, y) for y in range(35, 125)] + [(113, y) for y in range(125, 225)]:
        assert float(background[y, x]) < 1e-6, (x, y)


def test_waist_margin_moves_the_border_of_upper_and_lower():
    person = standing(128, 128, 220)
    low, high = (
        regions_from_poses([frame(person)], margins=Margins(waist=waist)).mask("upper")[0, :, 128]
        for waist in (0.0, 0.4)
    )
    rows_low, rows_high = (int((column > 0.5).sum()) for column in (low, high))
    assert rows_low - rows_high == pytest.approx(0.4 * 0.288 * 220, abs=2)


def test_mirror():
    rng = np.random.default_rng(2)
    for _ in range(10):
        person = dancing(rng, 140, 128, 200)
        swapped = [
            BODY_NAMES.index(n.replace("left", "?").replace("right", "left").replace("?", "right"))
            for n in BODY_NAMES
        ]
        body = person.body[swapped].copy()
        body[:, 0] = 256 - body[:, 0]
        here, there = (regions_from_poses([frame(p)]).masks for p in (person, Person(body)))
        for name in REGIONS:
            torch.testing.assert_close(here[name].flip(-1), there[name], atol=1e-4, rtol=0)


def test_scale_and_shift():
    rng = np.random.default_rng(3)
    person = dancing(rng, 128, 128, 180)
    twice = Person(person.body * np.float32((2, 2, 1)))
    small = regions_from_poses([frame(person)], 256, 256)
    large = regions_from_poses([frame(twice, width=512, height=512)])
    moved = Person(person.body + np.float32((16, -8, 0)))
    shifted = regions_from_poses([frame(moved)])
    for name in REGIONS:
        # The same canvas seen on the same grid.
        torch.testing.assert_close(small.mask(name), large.mask(name, 256, 256), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            small.mask(name)[:, 8:, :-16], shifted.mask(name)[:, :-8, 16:], atol=1e-4, rtol=0
        )


def test_a_size_is_only_another_grid():
    regions = regions_from_poses([frame(standing(128, 128, 220))])
    fine = regions.mask("person", 1024, 1024)
    area = torch.nn.functional.avg_pool2d(fine[:, None], 8)[:, 0]
    assert float((area - regions.mask("person", 128, 128)).abs().max()) < 0.05


def test_small_moves_change_masks_little():
    rng = np.random.default_rng(4)
    for _ in range(20):
        person = dancing(rng, 128, 128, 200)
        body = person.body.copy()
        body[:, :2] += rng.uniform(-0.1, 0.1, (18, 2))
        here, there = (regions_from_poses([frame(p)]).masks for p in (person, Person(body)))
        for name in REGIONS:
            # 0.14 px against soft edges 10 px wide, whose steepest slope is 0.15 a pixel.
            assert float((here[name] - there[name]).abs().max()) < 0.1, name


def test_frames_are_the_same_alone_and_in_a_batch():
    frames = dancers(8, seed=5)
    together = regions_from_poses(frames)
    for index, one in enumerate(frames):
        alone = regions_from_poses([one])
        picked = together.select(index, 1)
        for name in REGIONS:
            assert torch.equal(together.mask(name)[index : index + 1], alone.mask(name))
            assert torch.equal(picked.mask(name), alone.mask(name))


def test_masks_belong_to_whoever_asked():
    regions = regions_from_poses([frame(standing(128, 128, 220))])
    regions.mask("head").zero_()
    regions.mask("person").zero_()
    assert float(regions.mask("head").max()) == 1.0
    assert_partition(regions)


@pytest.mark.parametrize(
    "people",
    [
        (),
        (Person(np.zeros((18, 3))),),
        (standing(128, 128, 200, drop=set(BODY_NAMES) - {"nose"}),),
        (standing(128, 128, 200, confidence=0.05),),
        (Person(np.full((18, 3), np.nan)),),
        (standing(5000, 5000, 200),),
        (standing(128, 128, 0.001),),
    ],
)
def test_nobody_to_be_seen_is_all_background(people):
    regions = regions_from_poses([frame(*people)])
    assert torch.equal(regions.mask("background"), torch.ones(1, 256, 256))
    assert_partition(regions)


@pytest.mark.parametrize("seed", range(6))
def test_any_subset_of_joints_gives_a_partition(seed):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(20):
        drop = {name for name in BODY_NAMES if rng.random() < 0.5}
        person = dancing(rng, *rng.uniform((-50, -50, 20), (300, 300, 900)))
        body = person.body.copy()
        body[[BODY_NAMES.index(name) for name in drop]] = 0
        frames.append(frame(Person(body)))
    assert_partition(regions_from_poses(frames), 96, 96)


def test_head_and_shoulders_continue_below_the_picture():
    drop = (*LEGS, "right_hip", "left_hip", "right_wrist", "left_wrist")
    masks = regions_from_poses([frame(standing(128, 240, 400, drop=drop))]).masks
    assert at(masks["upper"][0], (128, 200)) > 0.99
    assert at(masks["person"][0], (106, 255)) > 0.99
    assert at(masks["background"][0], (10, 250)) > 0.99


def test_legs_cut_off_by_the_picture_reach_its_edge():
    person = standing(128, 200, 300, drop=LEGS)
    masks = regions_from_poses([frame(person)]).masks
    assert at(masks["lower"][0], (108, 250)) > 0.9
    # Legs that are hidden inside the picture are not invented.
    inside = standing(128, 100, 100, drop=LEGS)
    masks = regions_from_poses([frame(inside)]).masks
    assert float(masks["lower"][0, 125:].max()) == 0.0


def test_back_view_keeps_a_head():
    for drop in (("nose", "right_eye", "left_eye"), HEAD):
        head = regions_from_poses([frame(standing(128, 128, 220, drop=drop))]).mask("head")[0]
        assert at(head, (128, 128 - 0.43 * 220)) > 0.99
    front = regions_from_poses([frame(standing(128, 128, 220))]).mask("head")[0]
    assert float(head.sum()) == pytest.approx(float(front.sum()), rel=0.15)


def test_a_hand_in_front_of_the_body_stays_a_hand():
    person = standing(128, 128, 220, left_wrist=(0.0, -0.15), left_elbow=(0.12, -0.1))
    masks = regions_from_poses([frame(person)]).masks
    assert at(masks["hands"][0], person.body[7]) > 0.9


def test_hand_and_face_and_foot_points_are_covered():
    person = standing(128, 128, 220)
    rng = np.random.default_rng(0)

    def points(count, centre, spread):
        found = np.ones((count, 3), np.float32)
        found[:, :2] = centre + rng.uniform(-spread, spread, (count, 2))
        return found

    wrist = person.body[7, :2]
    full = Person(
        person.body,
        face=points(70, person.body[0, :2], 24),
        left_hand=points(21, wrist + (20, 10), 12),
        feet=points(6, person.body[13, :2] + (12, 4), 6),
    )
    masks = regions_from_poses([frame(full)]).masks
    for points_xy, region in ((full.face, "head"), (full.left_hand, "hands")):
        assert min(at(masks[region][0], point) for point in points_xy) > 0.9
    assert min(at(masks["feet"][0], point) for point in full.feet[:3]) > 0.9


def test_who_stands_lower_is_in_front():
    near, far = standing(120, 150, 180), standing(150, 120, 160)
    for people, order, front in (
        ((near, far), "ground", 0),
        ((far, near), "ground", 1),
        ((near, far), "last in front", 1),
        ((far, near), "first in front", 0),
    ):
        regions = regions_from_poses([frame(*people)], order=order)
        own = regions_from_poses([frame(people[front])])
        torch.testing.assert_close(
            regions.mask("person", person=front), own.mask("person"), atol=1e-6, rtol=0
        )
        both = regions.mask("person", person=0) + regions.mask("person", person=1)
        torch.testing.assert_close(both, regions.mask("person"), atol=1e-6, rtol=0)
        assert regions.people == 2
    assert set(ORDERS) >= {"ground", "first in front", "last in front"}


def test_a_person_that_is_not_there_has_an_empty_mask():
    regions = regions_from_poses([frame(standing(128, 128, 200))])
    assert float(regions.mask("outfit", person=3).max()) == 0.0


def test_grown_person_contains_the_person():
    regions = regions_from_poses(dancers(6, seed=7))
    person = regions.mask("person")
    same, wide = regions.grown("person", 0.0), regions.grown("person", 0.1)
    assert float((wide - person).min()) >= -1e-6
    assert float(wide.sum()) > 1.2 * float(person.sum())
    solo = regions_from_poses([frame(standing(128, 128, 200))])
    torch.testing.assert_close(solo.grown("person", 0.0), solo.mask("person"), atol=1e-6, rtol=0)
    assert same.shape == wide.shape == person.shape


def test_poses_of_another_size_are_fitted():
    regions = regions_from_poses([frame(standing(128, 128, 220))], 512, 256)
    assert regions.mask("person").shape == (1, 256, 512)
    assert at(regions.mask("upper")[0], (256, 90)) > 0.99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "nearest"}, "order"),
        ({"fit": "zoom"}, "fit"),
        ({"feather": 0.5}, "feather"),
        ({"feather": float("nan")}, "feather"),
        ({"width": -4}, "canvas"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(SceneError, match=words):
        regions_from_poses([frame()], **options)


def test_no_frames_and_unknown_regions_are_named():
    with pytest.raises(SceneError, match="empty"):
        regions_from_poses([])
    regions = regions_from_poses([frame()])
    with pytest.raises(SceneError, match="torso.*upper"):
        regions.mask("torso")
    with pytest.raises(SceneError, match="nobody"):
        regions.mask("background", person=0)
    with pytest.raises(SceneError, match="cannot be grown"):
        regions.grown("background", 0.1)
