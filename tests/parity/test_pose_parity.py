"""Our pictures and positions against controlnet-aux, the source of the ControlNets' pictures."""

import colorsys
import sys
import types

import numpy as np
import pytest

from conditioning.pose import PARTS, Person, PoseDetector, PoseFrame, draw_pose, read_poses
from conditioning.pose.openpose import open_pose_module
from tests.unit.conditioning.colour_pose import DotBody, dot_picture

SIZES = [(512, 512), (768, 1024), (1024, 1024), (1216, 832)]

STANDING = np.array(
    [
        (0.50, 0.15), (0.50, 0.25), (0.40, 0.25), (0.35, 0.40), (0.33, 0.52), (0.60, 0.25),
        (0.65, 0.40), (0.67, 0.52), (0.44, 0.52), (0.43, 0.72), (0.42, 0.92), (0.56, 0.52),
        (0.57, 0.72), (0.58, 0.92), (0.48, 0.13), (0.52, 0.13), (0.46, 0.14), (0.54, 0.14),
    ]
)  # fmt: skip


@pytest.fixture(autouse=True)
def hues(monkeypatch):
    """controlnet-aux draws hands with one function of matplotlib, which it does not require."""
    colours = types.ModuleType("matplotlib.colors")
    colours.hsv_to_rgb = lambda hsv: np.array(colorsys.hsv_to_rgb(*hsv))
    package = types.ModuleType("matplotlib")
    package.colors = colours
    monkeypatch.setitem(sys.modules, "matplotlib", package)
    monkeypatch.setitem(sys.modules, "matplotlib.colors", colours)


def some_person(rng: np.random.Generator, width: int, height: int) -> Person:
    """All parts there but for a few joints; hands and face of the size that people have."""

    def part(centre, spread: float, count: int) -> np.ndarray:
        points = np.ones((count, 3), np.float32)
        points[:, :2] = centre + rng.normal(0, spread * min(width, height), (count, 2))
        return points

    body = np.ones((18, 3), np.float32)
    body[:, :2] = (STANDING + rng.normal(0, 0.03, (18, 2))) * (width, height)
    right_hand, left_hand = part(body[4, :2], 0.03, 21), part(body[7, :2], 0.03, 21)
    face = part(body[0, :2], 0.03, 70)
    body[rng.random(18) < 0.1] = 0
    return Person(body, face=face, left_hand=left_hand, right_hand=right_hand)


def their_picture(frame: PoseFrame, parts: tuple[str, ...]) -> np.ndarray:
    theirs = open_pose_module("body")
    module = sys.modules[theirs.__package__]

    def points(array):
        if array is None:
            return None
        x, y = array[:, 0] / frame.width, array[:, 1] / frame.height
        return [
            theirs.Keypoint(float(a), float(b)) if c else None
            for a, b, c in zip(x, y, array[:, 2], strict=True)
        ]

    poses = [
        module.PoseResult(
            theirs.BodyResult(points(person.body), 1.0, 18),
            points(person.left_hand),
            points(person.right_hand),
            points(person.face),
        )
        for person in frame.people
    ]
    drawn = {f"draw_{part}": part in parts for part in ("body", "hand", "face")}
    return module.draw_poses(poses, frame.height, frame.width, **drawn)


def overlap(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(IoU of what is painted, share of the painted pixels whose colour differs)."""
    painted_a, painted_b = a.any(axis=2), b.any(axis=2)
    union = (painted_a | painted_b).sum()
    differs = (np.abs(a.astype(int) - b.astype(int)) > 1).any(axis=2)
    return (painted_a & painted_b).sum() / union, differs.sum() / union


@pytest.mark.parametrize("size", SIZES)
def test_bodies_cover_the_same_pixels_in_the_same_colours(size):
    rng = np.random.default_rng(0)
    for _ in range(8):
        people = tuple(some_person(rng, *size) for _ in range(2))
        frame = PoseFrame(people, *size)
        ours = draw_pose(frame, style="openpose", hands=False, face=False)
        iou, differing = overlap(ours, their_picture(frame, ("body",)))
        assert iou > 0.96 and differing < 0.045


@pytest.mark.parametrize("size", SIZES)
def test_hands_and_faces_cover_the_same_pixels(size):
    rng = np.random.default_rng(1)
    for _ in range(4):
        frame = PoseFrame((some_person(rng, *size),), *size)
        iou, differing = overlap(
            draw_pose(frame, style="openpose"), their_picture(frame, ("body", "hand", "face"))
        )
        assert iou > 0.95 and differing < 0.06
        bare = PoseFrame((Person(np.zeros((18, 3)), face=frame.people[0].face),), *size)
        np.testing.assert_array_equal(draw_pose(bare), their_picture(bare, ("face",)))


def test_joints_are_the_same_discs_to_the_pixel():
    rng = np.random.default_rng(2)
    for joint in range(18):
        body = np.zeros((18, 3), np.float32)
        body[joint] = (*rng.uniform(10, 500, 2), 1)
        frame = PoseFrame((Person(body),), 512, 512)
        ours = draw_pose(frame, style="openpose")
        np.testing.assert_array_equal(ours, their_picture(frame, ("body",)))


def test_detected_joints_are_theirs_where_nothing_is_scaled():
    """At a short side of 512 both search the same picture; ours are the middles of its pixels."""
    picture, joints = dot_picture((683, 512), [(60, 40, 560, 430)], 15)
    body = object.__new__(open_pose_module("body").Body)
    body.model = DotBody(joints[0])
    (mine,) = PoseDetector(body)(picture).people
    module = sys.modules[open_pose_module("body").__package__]
    (theirs,) = module.OpenposeDetector(body).detect_poses(picture)
    theirs = np.array([(p.x * 683, p.y * 512) for p in theirs.body.keypoints])
    np.testing.assert_allclose(mine.body[:, :2] - 0.5, theirs, atol=1e-3)


def test_frames_as_openpose_nodes_write_them_come_back_in_pixels():
    """Normalised, confidence 1, null for what is missing: the dialect of detector nodes."""
    rng = np.random.default_rng(3)
    person = some_person(rng, 640, 768)
    scale = np.array([640, 768, 1], np.float32)
    entry = {part.key: None for part in PARTS}
    entry |= {part.key: (points / scale).ravel().tolist() for part, points in person.parts()}
    (frame,) = read_poses([{"people": [entry], "canvas_width": 640, "canvas_height": 768}])
    for part, points in person.parts():
        np.testing.assert_allclose(getattr(frame.people[0], part.field), points, atol=1e-3)
