"""Drawn poses: the shapes against their equations, colours and sizes against the convention."""

import colorsys
import tracemalloc

import numpy as np
import pytest

from conditioning.pose import (
    BODY_LIMBS,
    HAND_EDGES,
    STYLES,
    Person,
    PoseError,
    PoseFrame,
    draw_pose,
    draw_poses,
    resize_pose,
)
from conditioning.pose.raster import disc_spans, ellipse_spans, line_spans, paint

PALETTE = np.array([[0, 0, 0], [255, 255, 255], [9, 8, 7]], np.uint8)
WHITE = np.array([1])
# The hues of the 18 joints, in degrees around the colour circle.
JOINT_RGB = [
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
]  # fmt: skip


def body_of(**joints: tuple[float, float]) -> np.ndarray:
    """A body of which only the given joints (j0 .. j17) are there."""
    body = np.zeros((18, 3), np.float32)
    for name, (x, y) in joints.items():
        body[int(name[1:])] = (x, y, 1.0)
    return body


def scattered(width: int, height: int, seed: int = 0) -> Person:
    """All 18 joints far enough from each other that no joint hides another."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(30)[:18]
    body = np.ones((18, 3), np.float32)
    body[:, 0] = (cells % 6 + 0.5) * width / 6 + rng.uniform(-5, 5, 18)
    body[:, 1] = (cells // 6 + 0.5) * height / 5 + rng.uniform(-5, 5, 18)
    return Person(body)


def painted(spans: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros((*size, 3), np.uint8)
    paint(canvas, [spans], PALETTE)
    return canvas[..., 0] > 0


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)


def test_ellipses_cover_the_pixels_whose_centres_fulfil_their_equation():
    rng = np.random.default_rng(0)
    x, y = grid(60, 90)
    for _ in range(200):
        centre = rng.uniform(-20, 110, 2)
        a, b = rng.uniform(0.5, 60), rng.uniform(0.5, 12)
        angle = rng.uniform(-np.pi, np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        dx, dy = x - centre[0], y - centre[1]
        wanted = ((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2 <= 1
        got = painted(
            ellipse_spans(centre[None], np.array([[a, b]]), np.array([[cos, sin]]), WHITE, 60),
            (60, 90),
        )
        assert (got != wanted).sum() <= 1  # a centre exactly on the outline may fall either way


def test_lines_cover_the_pixels_whose_centres_lie_on_them():
    rng = np.random.default_rng(0)
    x, y = grid(60, 90)
    fixed = [((10, 10), (10, 40)), ((10, 10), (60, 10)), ((50, 30), (10, 31)), ((10, 10), (9, 50))]
    for pair in [*fixed, *(rng.uniform(-20, 110, (2, 2)) for _ in range(200))]:
        start, end = np.array(pair, dtype=np.float64)
        length = np.hypot(*(end - start))
        cos, sin = (end - start) / length
        across = np.abs((y - start[1]) * cos - (x - start[0]) * sin)
        over = np.maximum(abs(x - (start[0] + end[0]) / 2) - abs(end[0] - start[0]) / 2, 0)
        over = np.maximum(over, abs(y - (start[1] + end[1]) / 2) - abs(end[1] - start[1]) / 2)
        wanted = (across <= 1.5) & (over <= 1.5)
        got = painted(line_spans(start[None], end[None], 3.0, WHITE, 60), (60, 90))
        edge = (abs(across - 1.5) < 1e-4) | (abs(over - 1.5) < 1e-4)
        assert not ((got != wanted) & ~edge).any()


def test_a_line_of_no_length_is_no_larger_than_its_thickness():
    point = np.array([[30.5, 30.5]])
    assert painted(line_spans(point, point, 3.0, WHITE, 60), (60, 90)).sum() <= 9


def test_discs_cover_the_pixels_within_their_radius_of_a_pixel():
    y, x = np.mgrid[:60, :90]
    for radius in (0, 1, 3, 4, 8, 12, 28):
        for px, py in ((40, 30), (0, 0), (89, 59), (-2, 61), (200, -300)):
            wanted = (x - px) ** 2 + (y - py) ** 2 <= radius**2
            got = painted(disc_spans(np.array([[px, py]]), radius, WHITE), (60, 90))
            np.testing.assert_array_equal(got, wanted)


def test_later_shapes_lie_over_earlier_ones():
    palette = np.array([[0, 0, 0], [1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    pixel = np.array([[20, 20]])
    spans = [disc_spans(pixel, radius, i) for i, radius in ((1, 15), (2, 10), (3, 5))]
    canvas = np.zeros((40, 40, 3), np.uint8)
    paint(canvas, spans, palette)
    assert canvas[20, [20, 27, 32, 38]].tolist() == palette[[3, 2, 1, 0]].tolist()
    paint(canvas, spans[:1], palette)
    assert canvas[20, 20].tolist() == [1, 2, 3]


@pytest.mark.parametrize("end", [(220, 60), (40, 200), (180, 190), (15, 160)])
def test_a_limb_is_an_ellipse_of_half_width_4(end):
    """Against the area and the outline of the exact ellipse; whole pixels and degrees allowed."""
    start = (40.0, 60.0)
    picture = draw_pose(PoseFrame((Person(body_of(j2=start, j3=end)),), 256, 256), style="openpose")
    limb = (picture == (153, 102, 0)).all(axis=2)  # 0.6 of (255, 170, 0)
    a = np.hypot(end[0] - start[0], end[1] - start[1]) / 2
    cos, sin = (end[0] - start[0]) / (2 * a), (end[1] - start[1]) / (2 * a)
    x, y = grid(256, 256)
    dx, dy = x - (start[0] + end[0]) / 2, y - (start[1] + end[1]) / 2
    along, across = dx * cos + dy * sin, dy * cos - dx * sin

    def inside(grow: float) -> np.ndarray:
        return (along / (a + grow)) ** 2 + (across / (4 + grow)) ** 2 <= 1

    joints = np.hypot(x - start[0], y - start[1]) < 6
    joints |= np.hypot(x - end[0], y - end[1]) < 6
    assert not (limb & ~inside(2.5)).any()
    assert not (inside(-1.5) & ~limb & ~joints).any()
    assert limb.sum() == pytest.approx(np.pi * (a + 0.5) * 4.5 - 40, rel=0.06)


def test_colours_of_all_limbs_and_joints():
    """Joints at full colour above limbs at 0.6 of theirs, in the order of OpenPose."""
    person = scattered(900, 900)
    picture = draw_pose(PoseFrame((person,), 900, 900), style="openpose")
    for joint, colour in enumerate(JOINT_RGB):
        x, y = person.body[joint, :2].astype(int)
        assert tuple(picture[y, x]) == colour
    expected = {tuple(int(0.6 * c) for c in colour) for colour in JOINT_RGB[:17]}
    shown = {tuple(int(v) for v in c) for c in np.unique(picture.reshape(-1, 3), axis=0)}
    assert shown == expected | set(JOINT_RGB) | {(0, 0, 0)}
    for number, (a, b) in enumerate(BODY_LIMBS):
        alone = np.zeros((18, 3), np.float32)
        alone[[a, b]] = person.body[[a, b]]
        picture = draw_pose(PoseFrame((Person(alone),), 900, 900), style="openpose")
        x, y = ((person.body[a, :2] + person.body[b, :2]) / 2).astype(int)
        assert tuple(picture[y, x]) == tuple(int(0.6 * c) for c in JOINT_RGB[number])


def test_limbs_join_the_joints_that_openpose_joins():
    one_based = [
        (2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11),
        (2, 12), (12, 13), (13, 14), (2, 1), (1, 15), (15, 17), (1, 16), (16, 18),
    ]  # fmt: skip
    assert [(a + 1, b + 1) for a, b in BODY_LIMBS] == one_based
    fingers = [[0, 4 * f + 1, 4 * f + 2, 4 * f + 3, 4 * f + 4] for f in range(5)]
    assert list(HAND_EDGES) == [(a, b) for f in fingers for a, b in zip(f, f[1:], strict=False)]


@pytest.mark.parametrize(
    ("side", "factor"),
    [(499, 1), (500, 2), (999, 2), (1000, 3), (1999, 3), (2000, 4), (3000, 5), (4000, 6)],
)
def test_xinsir_scales_sticks_and_joints_by_the_longer_side(side, factor):
    """At 1024: sticks of half-width 12 and joints of radius 12; openpose: always 4."""
    middle = side / 2
    frame = PoseFrame((Person(body_of(j2=(middle - 120, 50), j3=(middle + 120, 50))),), side, 101)
    for style, radius in (("xinsir", 4 * factor), ("openpose", 4)):
        picture = draw_pose(frame, style=style)
        stick = picture[:, int(middle)].any(axis=1).sum()
        assert abs(stick - (2 * radius + 1)) <= 1
        disc = (picture == JOINT_RGB[2]).all(axis=2)
        columns = np.nonzero(disc.any(axis=0))[0]
        assert columns[-1] - columns[0] + 1 == 2 * radius + 1
    portrait = PoseFrame(frame.people, 101, side)
    disc = (draw_pose(portrait, style="xinsir") == JOINT_RGB[3]).all(axis=2)
    if disc.any():
        assert disc.any(axis=1).sum() == 8 * factor + 1


def test_beyond_5000_pixels_xinsir_stays_at_7():
    assert STYLES["xinsir"].factor(5000, 10) == 7
    assert STYLES["xinsir"].factor(10, 16384) == 7


def test_hands_are_hue_lines_with_blue_points_and_faces_white_points():
    hand = np.ones((21, 3), np.float32)
    hand[0, :2] = (300, 500)
    for finger in range(5):
        for joint in range(4):
            hand[4 * finger + joint + 1, :2] = (60 + 110 * finger, 420 - 100 * joint)
    face = np.zeros((70, 3), np.float32)
    face[10] = (560, 560, 1)
    person = Person(np.zeros((18, 3)), face=face, right_hand=hand)
    frame = PoseFrame((person,), 600, 600)
    picture = draw_pose(frame)
    assert (picture[560, 560] == 255).all() and not picture[560, 564].any()
    assert (picture[563, 560] == 255).all()
    for number, (a, b) in enumerate(HAND_EDGES):
        x, y = (0.35 * hand[a, :2] + 0.65 * hand[b, :2]).astype(int)
        wanted = [255 * c for c in colorsys.hsv_to_rgb(number / 20, 1, 1)]
        np.testing.assert_allclose(picture[y, x], wanted, atol=1)
    for x, y in hand[:, :2].astype(int):
        assert picture[y, x].tolist() == [0, 0, 255] and picture[y + 4, x].tolist() == [0, 0, 255]
    only_face = draw_pose(frame, hands=False)
    assert not only_face[:520].any() and only_face.any()
    only_hands = draw_pose(frame, face=False)
    np.testing.assert_array_equal(only_hands[:540], picture[:540])
    assert not only_hands[550:].any()


def test_feet_are_drawn_when_asked_for():
    feet = np.zeros((6, 3), np.float32)
    feet[0] = (180, 240, 1)  # left big toe
    feet[5] = (40, 240, 1)  # right heel, whose ankle is missing
    frame = PoseFrame((Person(body_of(j13=(100, 200)), feet=feet),), 256, 256)
    without, shown = draw_pose(frame), draw_pose(frame, feet=True)
    assert without[200, 100].tolist() == list(JOINT_RGB[13]) and not without[240, 180].any()
    assert shown[240, 180].tolist() == list(JOINT_RGB[13]) and not shown[240, 40].any()
    assert shown[220, 140].tolist() == [51, 0, 153]


def test_threshold_leaves_out_what_is_uncertain():
    body = body_of(j2=(50, 50), j3=(200, 50), j4=(200, 200))
    body[:, 2] *= 0.5
    body[4, 2] = 0.2
    frame = PoseFrame((Person(body),), 256, 256)
    all_of_it = draw_pose(frame, threshold=0.0)
    assert all_of_it[200, 200].any() and all_of_it[120, 200].any()
    certain = draw_pose(frame, threshold=0.3)
    assert certain[50, 50].any() and certain[50, 120].any()
    assert not certain[200, 200].any() and not certain[120, 200].any()
    assert not draw_pose(frame, threshold=0.6).any()


def test_people_are_painted_one_after_another():
    one = Person(body_of(j2=(40, 128), j3=(216, 128)))
    two = Person(body_of(j5=(128, 40), j6=(128, 216)))
    first = draw_pose(PoseFrame((one, two), 256, 256), style="openpose")
    last = draw_pose(PoseFrame((two, one), 256, 256), style="openpose")
    assert first[128, 128].tolist() == [102, 153, 0]
    assert last[128, 128].tolist() == [153, 102, 0]


def test_pictures_are_drawn_at_their_size_not_resized():
    """The same pose on a canvas of half the size gives the same picture."""
    person = scattered(1024, 768)
    full = PoseFrame((person,), 1024, 768)
    half = resize_pose(full, 512, 384)
    np.testing.assert_array_equal(draw_pose(half, 1024, 768), draw_pose(full))
    assert draw_pose(full, 512, 0).shape == (768, 512, 3)


@pytest.mark.parametrize(
    ("fit", "where"),
    [("contain", (100, 150)), ("cover", (-100, 200)), ("stretch", (50, 200))],
)
def test_fit_places_other_proportions(fit, where):
    """Joint at a quarter of the width, the middle of the height of a 400 x 200 canvas."""
    frame = PoseFrame((Person(body_of(j0=(100, 100))),), 400, 200)
    size = (400, 300) if fit == "contain" else (200, 400)
    moved = resize_pose(frame, *size, fit)
    assert tuple(moved.people[0].body[0, :2]) == where
    assert not moved.people[0].body[1:].any()
    with pytest.raises(PoseError, match="Unknown fit 'squeeze'.*contain, cover, stretch"):
        resize_pose(frame, 10, 10, "squeeze")


def test_a_batch_is_its_frames_drawn_alone():
    frames = [PoseFrame((scattered(256, 320, seed),), 256, 320) for seed in range(4)]
    frames.append(PoseFrame((), 512, 512))
    batch = draw_poses(frames, hands=False)
    assert batch.shape == (5, 320, 256, 3) and batch.dtype == np.uint8
    for picture, frame in zip(batch, frames, strict=True):
        np.testing.assert_array_equal(picture, draw_pose(frame, 256, 320, hands=False))
    assert not batch[4].any()
    with pytest.raises(PoseError, match="no pose frames"):
        draw_poses([])


def test_far_and_degenerate_points_cost_nothing():
    """A thousand people a million pixels away, and limbs of no length: small, black, quick."""
    far = np.ones((18, 3), np.float32)
    far[:, :2] = 1e6 * np.random.default_rng(0).choice((-1, 1), (18, 2))
    point = body_of(**{f"j{i}": (30, 30) for i in range(18)})
    tracemalloc.start()
    picture = draw_pose(PoseFrame((Person(far),) * 1000 + (Person(point),), 64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture[30, 30].any() and picture.shape == (64, 64, 3)
    assert peak < 200e6
    edge = draw_pose(PoseFrame((Person(body_of(j0=(0, 0), j1=(64, 64), j2=(-3, 70))),), 64, 64))
    assert edge[0, 0].any() and edge[63, 63].any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"style": "thick"}, "Unknown pose style 'thick': use one of xinsir, openpose"),
        ({"width": 20000}, "1 to 16384"),
        ({"height": -8}, "1 to 16384"),
        ({"width": 32, "fit": "no"}, "Unknown fit"),
    ],
)
def test_bad_options_name_the_remedy(options, says):
    with pytest.raises(PoseError, match=says):
        draw_pose(PoseFrame((), 64, 64), **options)
