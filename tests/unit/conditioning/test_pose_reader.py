"""Every dialect of POSE_KEYPOINT, read to the same arrays, or refused with words that help."""

import json

import numpy as np
import pytest

from conditioning.pose import (
    PARTS,
    Person,
    PoseError,
    PoseFrame,
    read_pose_files,
    read_poses,
    write_poses,
)
from tests.unit.conditioning.keypoints import (
    H,
    W,
    flat,
    frame_dict,
    person_dict,
    triples,
    whole_person,
)


def same(person: Person, parts: dict[str, np.ndarray]) -> None:
    for part in PARTS:
        got, wanted = getattr(person, part.field), parts.get(part.field)
        if wanted is None:
            assert got is None
        else:
            np.testing.assert_allclose(got, wanted, rtol=1e-6, err_msg=part.field)


def test_core_dialect_keeps_real_confidences():
    parts = whole_person()
    (frame,) = read_poses([frame_dict(person_dict(parts))])
    assert (frame.width, frame.height) == (W, H)
    same(frame.people[0], parts)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda frame: frame,
        lambda frame: [frame],
        lambda frame: json.dumps(frame),
        lambda frame: json.dumps([frame]),
        lambda frame: [json.dumps(frame)],
        lambda frame: (frame,),
    ],
)
def test_text_dict_and_list_are_all_frames(wrap):
    parts = whole_person()
    (frame,) = read_poses(wrap(frame_dict(person_dict(parts))))
    same(frame.people[0], parts)


def test_null_empty_and_absent_parts_are_absent():
    body = triples(18, 0)
    entry = {
        "pose_keypoints_2d": flat(body),
        "face_keypoints_2d": None,
        "hand_left_keypoints_2d": [],
        "hand_right_keypoints_2d": [0] * 63,
    }
    (frame,) = read_poses(frame_dict(entry))
    same(frame.people[0], {"body": body})


def test_person_of_null_body_stays_in_the_list():
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": None, "face_keypoints_2d": None}))
    assert len(frame.people) == 1 and not frame.people[0].body.any()


def test_nested_triples_pairs_and_null_points():
    body = triples(18, 0, c=1.0)
    nested = body.astype(float).tolist()
    nested[3] = None
    nested[5] = [None, None, None]
    wanted = body.copy()
    wanted[[3, 5]] = 0
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": nested}))
    same(frame.people[0], {"body": wanted})
    pairs = [[x, y] for x, y, _ in body.astype(float).tolist()]
    pairs[0] = [0, 0]
    pairs[1] = [-1, -1]
    wanted = body.copy()
    wanted[[0, 1]] = 0
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": pairs}))
    same(frame.people[0], {"body": wanted})


def test_body_25_loses_the_middle_hip_and_gives_feet():
    body25 = triples(25, 3)
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": flat(body25)}))
    order = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    same(frame.people[0], {"body": body25[order], "feet": body25[19:25]})


def test_68_point_face_gets_its_pupils_from_the_body():
    body, face = triples(18, 0), triples(68, 1)
    entry = {"pose_keypoints_2d": flat(body), "face_keypoints_2d": flat(face)}
    (frame,) = read_poses(frame_dict(entry))
    same(frame.people[0], {"body": body, "face": np.concatenate([face, body[14:16]])})


def test_fractions_of_the_canvas_become_pixels():
    parts = whole_person(c=1.0)
    fractions = {field: p / np.array([W, H, 1], np.float32) for field, p in parts.items()}
    (frame,) = read_poses(frame_dict(person_dict(fractions)))
    same(frame.people[0], parts)


def test_points_off_the_canvas_do_not_change_the_units():
    """One point at 1.11 must not turn a whole part into pixels, nor a far one the whole frame."""
    parts = whole_person(c=1.0)
    parts["left_hand"][4, :2] = (1.11 * W, 0.5 * H)
    parts["body"][10, :2] = (-3.2 * W, 1.4 * H)
    fractions = {field: p / np.array([W, H, 1], np.float32) for field, p in parts.items()}
    (frame,) = read_poses(frame_dict(person_dict(fractions)))
    same(frame.people[0], parts)


def test_a_hand_inside_the_corner_pixels_follows_the_rest_of_its_frame():
    """By itself the hand reads as fractions; the frame says pixels."""
    parts = whole_person(c=1.0)
    parts["left_hand"][:, :2] = np.random.default_rng(0).uniform(0.1, 0.9, (21, 2))
    (frame,) = read_poses(frame_dict(person_dict(parts)))
    np.testing.assert_allclose(frame.people[0].left_hand, parts["left_hand"], rtol=1e-6)


def test_units_are_decided_for_each_frame():
    parts = whole_person(c=1.0)
    fractions = {field: p / np.array([W, H, 1], np.float32) for field, p in parts.items()}
    frames = read_poses([frame_dict(person_dict(parts)), frame_dict(person_dict(fractions))])
    for frame in frames:
        same(frame.people[0], parts)


def test_units_can_be_said():
    body = np.full((18, 3), 1.0, np.float32)
    data = frame_dict({"pose_keypoints_2d": flat(body)})
    assert read_poses(data, units="pixels")[0].people[0].body[0, 0] == 1
    assert read_poses(data, units="fractions")[0].people[0].body[0].tolist() == [W, H, 1]
    with pytest.raises(PoseError, match="Unknown units 'inches'.*fractions"):
        read_poses(data, units="inches")


def test_fractions_of_the_padded_canvas():
    """OpenPose nodes divide by 512 x 704 and say 512 x 683."""
    body = triples(18, 0, c=1.0)
    fractions = body / np.array([704, 512, 1], np.float32)
    data = {
        "people": [{"pose_keypoints_2d": flat(fractions)}],
        "canvas_width": 683,
        "canvas_height": 512,
    }
    (frame,) = read_poses(data, units="padded_fractions")
    np.testing.assert_allclose(frame.people[0].body, body, rtol=1e-6)
    assert frame.width == 683


def test_missing_hand_points_of_openpose_nodes_are_missing():
    body = triples(18, 0, c=1.0)
    hand = triples(21, 1, c=1.0)
    scale = np.array([W, H, 1], np.float32)
    marked = hand / scale
    marked[7] = (-1 / W, -1 / H, 1.0)
    entry = {
        "pose_keypoints_2d": flat(body / scale),
        "hand_left_keypoints_2d": flat(marked),
    }
    (frame,) = read_poses(frame_dict(entry))
    assert not frame.people[0].left_hand[7].any()
    np.testing.assert_allclose(frame.people[0].left_hand[8], hand[8], rtol=1e-6)


def test_hands_that_hang_on_the_other_wrist_are_swapped():
    """ComfyUI's SDPose node writes the left hand as right."""
    body = triples(18, 0, c=1.0)
    body[4, :2], body[7, :2] = (100, 200), (400, 200)  # right wrist, left wrist
    at_right, at_left = triples(21, 1, c=1.0), triples(21, 2, c=1.0)
    at_right[0, :2], at_left[0, :2] = (102, 205), (398, 195)
    crossed = {"body": body, "left_hand": at_right, "right_hand": at_left}
    straight = {"body": body, "left_hand": at_left, "right_hand": at_right}
    for parts in (crossed, straight):
        (frame,) = read_poses(frame_dict(person_dict(parts)))
        same(frame.people[0], straight)
    (frame,) = read_poses(frame_dict(person_dict({"body": body, "left_hand": at_right})))
    same(frame.people[0], {"body": body, "right_hand": at_right})


def test_old_editor_files():
    people = [triples(18, 0, c=1.0), triples(18, 1, c=1.0)]
    pairs = [[[x, y] for x, y, _ in body.astype(float).tolist()] for body in people]
    (frame,) = read_poses({"width": W, "height": H, "keypoints": pairs})
    assert (frame.width, frame.height) == (W, H)
    for person, body in zip(frame.people, people, strict=True):
        same(person, {"body": body})
    (frame,) = read_poses({"width": W, "height": H, "keypoints": pairs[0]})
    same(frame.people[0], {"body": people[0]})
    (frame,) = read_poses({"width": W, "height": H, "keypoints": []})
    assert frame.people == ()


def test_openpose_files_without_canvas_share_one(caplog):
    near, far = triples(18, 0, c=1.0), triples(18, 1, c=1.0)
    far[0, :2] = (1000, 700)
    bare = [{"version": 1.3, "people": [{"pose_keypoints_2d": flat(body)}]} for body in (near, far)]
    frames = read_poses(bare)
    assert {(f.width, f.height) for f in frames} == {(1024, 704)}
    assert "no canvas size" in caplog.text
    same(frames[0].people[0], {"body": near})
    frames = read_poses(bare, canvas=(1280, None))
    assert {(f.width, f.height) for f in frames} == {(1280, 704)}
    with_size = [bare[0], frame_dict({"pose_keypoints_2d": flat(far)})]
    assert {(f.width, f.height) for f in read_poses(with_size)} == {(W, H)}


def test_fractions_without_canvas_and_zero_canvas():
    fractions = {"people": [{"pose_keypoints_2d": [0.5, 0.25, 1.0] * 18}]}
    (frame,) = read_poses(fractions)
    assert frame.people[0].body[0].tolist() == [frame.width / 2, frame.height / 4, 1]
    (zero,) = read_poses({**fractions, "canvas_width": 0, "canvas_height": None})
    assert (zero.width, zero.height) == (frame.width, frame.height)


def test_confidences_outside_of_0_to_1():
    body = triples(18, 0)
    body[:4, 2] = (2.0, -1.0, 0.0, 1.0)
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": flat(body)}))
    assert frame.people[0].body[0, 2] == 1
    assert not frame.people[0].body[1:3].any()


def test_numpy_arrays_and_integers_of_other_nodes():
    body = triples(18, 0)
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": body.ravel()}))
    same(frame.people[0], {"body": body})
    (frame,) = read_poses(frame_dict({"pose_keypoints_2d": [100, 200, 1] * 18}))
    assert frame.people[0].body[0].tolist() == [100, 200, 1]


@pytest.mark.parametrize("scale", [0.001, 1.0, 3.0, 1e5])
def test_write_and_read_is_exact_to_the_bit(scale):
    """Also for a figure smaller than two pixels, which would read as fractions of the canvas."""
    rng = np.random.default_rng(5)
    people = []
    for number in range(3):
        parts = {}
        for part in PARTS:
            points = rng.random((part.points, 3), dtype=np.float32)
            points[:, :2] *= np.float32(scale)
            points[rng.random(part.points) < 0.3] = 0
            parts[part.field] = points
        if number == 1:
            parts = {"body": parts["body"]}
        parts.pop("left_hand", None) if number == 2 else None
        for hand, wrist in (("right_hand", 4), ("left_hand", 7)):
            if hand in parts:
                parts[hand][0] = parts["body"][wrist]
        people.append(Person(**parts))
    frames = (PoseFrame(tuple(people), 700, 300), PoseFrame((), 16, 16))
    text = json.dumps(write_poses(frames))
    again = read_poses(text)
    assert [(f.width, f.height) for f in again] == [(700, 300), (16, 16)]
    for mine, read in zip(frames[0].people, again[0].people, strict=True):
        for part in PARTS:
            a, b = getattr(mine, part.field), getattr(read, part.field)
            assert (a is None) == (b is None)
            assert a is None or a.tobytes() == b.tobytes()
    assert json.dumps(write_poses(again)) == text


def test_written_numbers_are_the_numbers_of_the_file():
    body = [512.3, 40.7, 0.62] * 18
    (written,) = write_poses(read_poses(frame_dict({"pose_keypoints_2d": body})))
    assert written["people"][0]["pose_keypoints_2d"] == body
    assert (written["canvas_width"], written["canvas_height"]) == (W, H)


def test_written_parts_suit_readers_that_accept_no_null():
    (written,) = write_poses(read_poses(frame_dict({"pose_keypoints_2d": [10.0, 20.0, 1.0] * 18})))
    for part in PARTS:
        assert len(written["people"][0][part.key]) == 3 * part.points
        assert all(type(v) is float for v in written["people"][0][part.key])


def test_binary_confidence_keeps_every_point_for_readers_that_want_1():
    body = triples(18, 0)
    body[3] = 0
    frames = read_poses(frame_dict({"pose_keypoints_2d": flat(body)}))
    (binary,) = write_poses(frames, "binary")
    written = np.reshape(binary["people"][0]["pose_keypoints_2d"], (18, 3))
    np.testing.assert_array_equal(written[:, 2], [float(i != 3) for i in range(18)])
    np.testing.assert_allclose(written[:, :2], body[:, :2], rtol=1e-6)
    with pytest.raises(PoseError, match="Unknown confidence 'no'.*real or binary"):
        write_poses(frames, "no")


def test_arrays_cannot_be_changed_behind_a_person():
    body = np.ones((18, 3), np.float32)
    person = Person(body)
    body[:] = 7
    assert (person.body == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        person.body[0] = 5
    with pytest.raises(PoseError, match=r"left_hand must be \(21, 3\), got \(20, 3\)"):
        Person(body, left_hand=np.zeros((20, 3)))
    with pytest.raises(PoseError, match="canvas"):
        PoseFrame((), 0, 5)


def test_folder_of_files_in_natural_order_on_one_canvas(tmp_path):
    for number in (10, 2, 1):
        body = np.full((18, 3), 1.0)
        body[:, :2] = 50 * number
        data = {"people": [{"pose_keypoints_2d": flat(body)}]}
        (tmp_path / f"Frame{number}.json").write_text("\ufeff" + json.dumps(data), "utf-8")
    (tmp_path / "notes.txt").write_text("x", "ascii")
    from conditioning.pose import pose_files_in

    frames = read_pose_files(pose_files_in(tmp_path))
    assert [f.people[0].body[0, 0] for f in frames] == [50, 100, 500]
    assert {(f.width, f.height) for f in frames} == {(512, 512)}
    (tmp_path / "Frame3.json").write_text('{"people": [{"pose_keypoints_2d": [1]}]}', "ascii")
    with pytest.raises(PoseError, match=r"^Frame3.json, frame 1, person 1, body: expected 54"):
        read_pose_files(pose_files_in(tmp_path))
    (tmp_path / "Frame3.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(PoseError, match=r"^Frame3.json: not a JSON text file"):
        read_pose_files(pose_files_in(tmp_path))
