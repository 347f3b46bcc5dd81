"""Broken keypoints: refused with words that help, never a crash."""

import copy
import random

import numpy as np
import pytest

from conditioning.pose import PoseError, read_poses, write_poses
from tests.unit.conditioning.keypoints import flat, frame_dict, person_dict, whole_person

NAN, INF = float("nan"), float("inf")
GOOD = [10.0, 20.0, 1.0] * 18
PART_ERRORS = [
    ([1, 2], "expected 54 or 75 numbers"),
    (GOOD[:-1], "expected 54 or 75 numbers"),
    (GOOD * 2, "expected 54 or 75 numbers"),
    (["a"] * 54, "list of numbers"),
    (["10"] * 54, "list of numbers"),
    ([True] * 54, "list of numbers"),
    ("10,20,1", "list of numbers"),
    ({"0": [1, 2, 3]}, "list of numbers"),
    ([[1, 2, 3], [1]], "list of numbers"),
    ([[[1, 2, 3]]] * 18, "expected 54 or 75 numbers"),
    (5, "expected 54 or 75 numbers"),
    ([NAN, *GOOD[1:]], "point 1 is NaN or infinite"),
    ([*GOOD[:4], INF, *GOOD[5:]], "point 2 is NaN or infinite"),
    ([*GOOD[:5], -INF, *GOOD[6:]], "point 2 is NaN or infinite"),
    ([1e30, *GOOD[1:]], "point 1 lies more than"),
    ([10**400, *GOOD[1:]], "too large"),
]


@pytest.mark.parametrize(("values", "says"), PART_ERRORS)
def test_bad_numbers_name_source_frame_person_and_part(values, says):
    data = [
        frame_dict(),
        frame_dict({"pose_keypoints_2d": GOOD}, {"pose_keypoints_2d": values}),
    ]
    with pytest.raises(PoseError) as caught:
        read_poses(data, "walk.json")
    message = str(caught.value)
    assert message.startswith("walk.json, frame 2 of 2, person 2, body: ")
    assert says in message and message.endswith(" or export the pose again.")
    assert len(message) < 300 and "\n" not in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "got null"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ([], "no pose frames"),
        ("[]", "no pose frames"),
        ([[1]], "got list"),
        (3, "got int"),
        ({}, "found no keys"),
        ({"x" * 5000: 1}, "expected 'people'"),
        ({"people": 3}, "'people' must be a list"),
        ({"people": [3]}, "person 1: expected an object"),
        ({"people": [{}]}, "person 1: has none of"),
        ({"version": "ap10k", "animals": [[1, 2, 3]]}, "animal keypoints"),
        ({"people": [], "canvas_width": 1e9}, "canvas_width must be a number from 1 to 16384"),
        ({"people": [], "canvas_height": -5}, "canvas_height must be"),
        ({"people": [], "canvas_width": "512"}, "canvas_width must be"),
        ({"people": [], "canvas_width": True}, "canvas_width must be"),
        ({"people": [], "canvas_width": [512]}, "canvas_width must be"),
        ('{"people": [], "canvas_width": NaN}', "canvas_width must be"),
        ({"people": [], "width": INF}, "width must be"),
    ],
)
def test_bad_frames_say_what_is_wrong(data, says):
    with pytest.raises(PoseError, match=says) as caught:
        read_poses(data, "walk.json")
    message = str(caught.value)
    assert message.startswith("walk.json") and len(message) < 400


def test_no_mutation_of_any_input_breaks_the_reader():
    """Replace random places of a good frame by junk: frames or a PoseError, never anything else."""
    junk = [None, [], {}, "x", -1, 0, 1e300, NAN, 10**30, True, [[]], [None], {"people": []}]
    good = [frame_dict(person_dict(whole_person())), frame_dict()]
    rng = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        data = copy.deepcopy(good)
        for _ in range(rng.randint(1, 2)):
            node, key = data, rng.randrange(len(data))
            while isinstance(node[key], (list, dict)) and node[key] and rng.random() < 0.8:
                node = node[key]
                key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node[key] = rng.choice(junk)
        try:
            frames = read_poses(data)
            assert all(np.isfinite(a).all() for f in frames for p in f.people for _, a in p.parts())
            outcomes["read"] += 1
        except PoseError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30


def test_a_wild_fraction_stays_a_position_that_can_be_written_and_read():
    body = np.full((18, 3), 0.5, np.float32)
    body[3, 0] = 9e5
    frames = read_poses(frame_dict({"pose_keypoints_2d": flat(body)}))
    assert frames[0].people[0].body[3, 0] == 1e6
    assert read_poses(write_poses(frames))[0].people[0].body[3, 0] == 1e6
