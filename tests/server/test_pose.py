"""The pose nodes on a running ComfyUI: files in and out, pictures, other packs' nodes, mistakes."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from conditioning.pose import PARTS, draw_poses, read_poses
from tests.unit.conditioning.colour_pose import published
from tools.client import ExecutionError, ExecutionInterrupted, PromptError
from tools.events import Events
from tools.server import ROOT

DANCE = ROOT / "workflows" / "input" / "troupe_dance.json"


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def poses(server):
    """A folder in input/ with the shipped dance and a full-bodied frame as files."""
    folder = server.input_dir / "poses"
    folder.mkdir()
    shutil.copy(DANCE, folder / "dance.json")
    (folder / "whole.json").write_text(json.dumps(whole_frame()), "ascii")
    return folder


def whole_frame() -> dict:
    """Every part, with real confidences, some points missing, one hand null."""
    rng = np.random.default_rng(0)
    person = {}
    for part in PARTS:
        points = rng.uniform(20, 240, (part.points, 3))
        points[:, 2] = rng.uniform(0.4, 0.99, part.points)
        points[rng.random(part.points) < 0.1] = 0
        person[part.key] = points.round(2).ravel().tolist()
    person["hand_left_keypoints_2d"] = None
    return {"people": [person], "canvas_width": 250, "canvas_height": 260}


def pictures(server, shown: list[dict]) -> np.ndarray:
    return np.stack(
        [np.array(Image.open(io.BytesIO(server.client.view(**image)))) for image in shown]
    )


def test_a_dance_is_loaded_drawn_and_counted(server, poses):
    outputs = server.client.run(
        {
            "load": node("TroupeLoadPose", pose_file="poses/dance.json"),
            "draw": node("TroupeDrawPose", pose=["load", 0], width=512, height=640),
            "save": node("PreviewImage", images=["draw", 0]),
            **{f"show{slot}": node("PreviewAny", source=["load", slot]) for slot in (1, 2, 3)},
        }
    )
    frames = read_poses(DANCE.read_text("utf-8"))
    facts = [outputs[f"show{slot}"]["text"][0] for slot in (1, 2, 3)]
    assert facts == [str(frames[0].width), str(frames[0].height), str(len(frames))]
    drawn = pictures(server, outputs["save"]["images"])
    np.testing.assert_array_equal(drawn, draw_poses(frames, 512, 640))
    assert len({picture.tobytes() for picture in drawn}) > len(frames) // 2


def test_saved_poses_come_back_bit_by_bit(server, poses):
    outputs = server.client.run(
        {
            "load": node("TroupeLoadPose", pose_file="poses/whole.json"),
            "save": node("TroupeSavePose", pose=["load", 0], filename_prefix="poses/kept"),
        }
    )
    (saved,) = outputs["save"]["files"]
    assert saved["subfolder"] == "poses" and saved["type"] == "output"
    assert not list((server.output_dir / "poses").glob("*.part"))
    (frame,) = read_poses(whole_frame())
    (again,) = read_poses(server.client.view(**saved))
    for part in PARTS:
        one, two = getattr(frame.people[0], part.field), getattr(again.people[0], part.field)
        assert (one is None) == (two is None)
        assert one is None or one.tobytes() == two.tobytes()
    outputs = server.client.run(
        {
            "load": node("TroupeLoadPose", pose_file=f"poses/{saved['filename']} [output]"),
            "draw": node("TroupeDrawPose", pose=["load", 0], style="openpose", threshold=0.5),
            "save": node("PreviewImage", images=["draw", 0]),
        }
    )
    drawn = pictures(server, outputs["save"]["images"])
    np.testing.assert_array_equal(drawn, draw_poses([frame], style="openpose", threshold=0.5))


def test_cores_drawing_takes_our_poses(server, poses):
    """It fails on null parts; ours has a null hand in its file."""
    options = {
        "draw_body": True,
        "draw_hands": True,
        "draw_face": True,
        "draw_feet": True,
        "draw_head": True,
        "stick_width": 4,
        "face_point_size": 3,
        "score_threshold": 0.3,
    }
    outputs = server.client.run(
        {
            "load": node("TroupeLoadPose", pose_file="poses/whole.json"),
            "draw": node("SDPoseDrawKeypoints", keypoints=["load", 0], **options),
            "save": node("PreviewImage", images=["draw", 0]),
        }
    )
    theirs = pictures(server, outputs["save"]["images"])
    assert theirs.shape == (1, 260, 250, 3)
    (frame,) = read_poses(whole_frame())
    for x, y, confidence in frame.people[0].body:
        if confidence:
            assert theirs[0, int(y), int(x)].any()


def test_a_folder_is_a_sequence_and_a_changed_file_is_read_again(server):
    folder = server.input_dir / "walk"
    folder.mkdir()
    for number in (10, 2, 1):
        body = [float(20 * number), 50.0, 1.0] * 18
        frame = {"people": [{"pose_keypoints_2d": body}]}
        (folder / f"f{number}.json").write_text(json.dumps(frame), "ascii")
    info = server.client.object_info("TroupeLoadPose")["TroupeLoadPose"]
    choices = json.dumps(info["input"]["required"]["pose_file"])
    assert '"walk/"' in choices and '"walk/f10.json"' in choices
    prompt = {
        "load": node("TroupeLoadPose", pose_file="walk/", canvas_width=320, canvas_height=96),
        "show": node("PreviewAny", source=["load", 0]),
    }

    def noses() -> list[float]:
        frames = json.loads(server.client.run(prompt)["show"]["text"][0])
        assert {(f["canvas_width"], f["canvas_height"]) for f in frames} == {(320, 96)}
        return [f["people"][0]["pose_keypoints_2d"][0] for f in frames]

    assert noses() == [20, 40, 200]
    (folder / "f2.json").write_text(
        json.dumps({"people": [{"pose_keypoints_2d": [7] * 54}]}), "utf-8"
    )
    assert noses() == [20, 7, 200]
    (folder / "f3.json").write_text(
        json.dumps({"people": [{"pose_keypoints_2d": [9] * 54}]}), "utf-8"
    )
    assert noses() == [20, 7, 9, 200]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../outside.json", "must not contain '..'"),
        ("poses/../../outside.json", "must not contain '..'"),
        ("/etc/passwd", "must be a relative name"),
        ("C:\\x.json", "must be a relative name"),
        ("a\0b.json", "must be a relative name"),
        ("../outside.json [output]", "must not contain '..'"),
        ("missing.json", "was not found"),
        ("", "is empty"),
    ],
)
def test_names_that_lead_astray_are_refused(server, poses, name, says):
    prompt = {
        "load": node("TroupeLoadPose", pose_file=name),
        "draw": node("TroupeDrawPose", pose=["load", 0]),
        "save": node("PreviewImage", images=["draw", 0]),
    }
    with pytest.raises(PromptError) as caught:
        server.client.run(prompt)
    assert "pose_file" in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize("prefix", ["../poses", "/tmp/poses", "a/../../b", ""])
def test_prefixes_that_lead_astray_are_refused(server, poses, prefix):
    prompt = {
        "load": node("TroupeLoadPose", pose_file="poses/whole.json"),
        "save": node("TroupeSavePose", pose=["load", 0], filename_prefix=prefix),
    }
    with pytest.raises(PromptError, match="filename_prefix"):
        server.client.run(prompt)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "bad.json, frame 1: not valid JSON|bad.json: not valid JSON"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "bad.json, frame 1, person 1, body"),
        ('{"animals": []}', "bad.json, frame 1: these are animal keypoints"),
        ('{"people": [], "canvas_width": 1e9}', "canvas_width must be a number from 1 to 16384"),
    ],
)
def test_malformed_files_are_named_and_the_server_lives_on(server, poses, text, says):
    (poses / "bad.json").write_text(text, "ascii")
    prompt = {
        "load": node("TroupeLoadPose", pose_file="poses/bad.json"),
        "draw": node("TroupeDrawPose", pose=["load", 0]),
        "save": node("PreviewImage", images=["draw", 0]),
    }
    with pytest.raises(ExecutionError, match=says) as caught:
        server.client.run(prompt)
    assert caught.value.node_type == "TroupeLoadPose"
    prompt["load"]["inputs"]["pose_file"] = "poses/whole.json"
    assert server.client.run(prompt)["save"]["images"]


def test_unknown_options_are_refused(server, poses):
    for wrong in ({"style": "thick"}, {"width": 99999}, {"threshold": 2}, {"fit": "squeeze"}):
        prompt = {
            "load": node("TroupeLoadPose", pose_file="poses/whole.json"),
            "draw": node("TroupeDrawPose", pose=["load", 0], **wrong),
            "save": node("PreviewImage", images=["draw", 0]),
        }
        with pytest.raises(PromptError, match=next(iter(wrong))):
            server.client.run(prompt)


def detect(server, body_model: str, pictures: int = 1, **more) -> dict:
    shutil.copy(ROOT / "workflows/input/troupe_character.jpg", server.input_dir / "person.jpg")
    return {
        "photo": node("LoadImage", image="person.jpg"),
        "batch": node("RepeatImageBatch", image=["photo", 0], amount=pictures),
        "detect": node("TroupeDetectPose", image=["batch", 0], body_model=body_model, **more),
        "save": node("TroupeSavePose", pose=["detect", 0], filename_prefix="poses/found"),
    }


@pytest.fixture(scope="module")
def body_model(server) -> str:
    """A full-size body network with random weights, which sees nobody."""
    folder = server.models_dir / "pose"
    folder.mkdir(exist_ok=True)
    torch.save(published("body"), folder / "random_body.pth")
    (folder / "broken.pth").write_bytes(b"PK" + bytes(1000))
    return "random_body.pth"


def test_detection_runs_on_a_batch_of_photographs(server, body_model):
    outputs = server.client.run(detect(server, body_model, pictures=2))
    frames = read_poses(server.client.view(**outputs["save"]["files"][0]))
    photo = Image.open(server.input_dir / "person.jpg")
    assert [(f.width, f.height) for f in frames] == [photo.size] * 2


def test_detection_stops_between_pictures(server, body_model):
    with Events(server.url) as events:
        prompt_id = server.client.queue(
            detect(server, body_model, pictures=200), client_id=events.client_id
        )
        events.wait_for(lambda e: e.type == "progress" and e.data["value"] >= 1)
        server.client.interrupt(prompt_id)
        with pytest.raises(ExecutionInterrupted):
            server.client.wait(prompt_id, timeout=60)


def test_missing_and_broken_networks_are_named(server, body_model):
    with pytest.raises(PromptError, match="body_model.*models/pose.*lllyasviel/Annotators"):
        server.client.run(detect(server, "body_pose_model.pth"))
    with pytest.raises(PromptError, match="hand_model 'gone.pth' is not in models/pose"):
        server.client.run(detect(server, body_model, hand_model="gone.pth"))
    with pytest.raises(PromptError, match="body_model '../x.pth' is not in models/pose"):
        server.client.run(detect(server, "../x.pth"))
    with pytest.raises(ExecutionError, match="broken.pth cannot be read"):
        server.client.run(detect(server, "broken.pth"))
    with pytest.raises(ExecutionError, match="random_body.pth is not OpenPose's hand network"):
        server.client.run(detect(server, body_model, hand_model=body_model))
