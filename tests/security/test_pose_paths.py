"""Names given to the pose nodes never lead out of ComfyUI's folders, not even by links."""

import importlib
import json
import os

import pytest
import torch

from tests.systems import needs_links, needs_pipes

FRAME = json.dumps({"people": [], "canvas_width": 64, "canvas_height": 64})
ASTRAY = ["../x.json", "a/../../x.json", "/etc/passwd", "\\\\host\\x.json", "C:/x.json", "a\0.json"]


@pytest.fixture
def nodes(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.pose")


def refused(nodes, sandbox, name: str) -> str:
    """Refused when the prompt is checked, and again when it runs; returns the message."""
    said = nodes.TroupeLoadPose.validate_inputs(pose_file=name)
    assert said is not True
    with pytest.raises(ValueError, match="pose_file") as caught:
        nodes.TroupeLoadPose.execute(pose_file=name)
    assert "secret" not in str(caught.value).replace(name, "")
    return str(caught.value)


@pytest.mark.parametrize("name", [*ASTRAY, "../outside/secret.json", "x.json [output]", "", None])
def test_loading_stays_inside(nodes, sandbox, name):
    (sandbox.outside / "secret.json").write_text(FRAME, "ascii")
    if name is None:
        assert nodes.TroupeLoadPose.validate_inputs(pose_file=None) is True  # linked: not known yet
        with pytest.raises(ValueError, match="pose_file is empty"):
            nodes.TroupeLoadPose.execute(pose_file=None)
    else:
        refused(nodes, sandbox, name)


@needs_links
def test_links_that_lead_out_are_not_followed(nodes, sandbox):
    secret = sandbox.outside / "secret.json"
    secret.write_text(FRAME, "ascii")
    os.symlink(secret, sandbox.input / "link.json")
    os.symlink(sandbox.outside, sandbox.input / "linked")
    walk = sandbox.input / "walk"
    walk.mkdir()
    (walk / "1.json").write_text(FRAME, "ascii")
    os.symlink(secret, walk / "2.json")
    for name in ("link.json", "linked/secret.json", "linked/", "linked", "walk/2.json", "walk/"):
        assert "leads outside" in refused(nodes, sandbox, name)
    assert nodes.TroupeLoadPose.execute(pose_file="walk/1.json").result[1:] == (64, 64, 1)


@needs_pipes
def test_pipes_and_devices_are_not_opened(nodes, sandbox):
    os.mkfifo(sandbox.input / "pipe.json")
    assert "no .json files" in refused(nodes, sandbox, "pipe.json")
    folder = sandbox.input / "pipes"
    folder.mkdir()
    os.mkfifo(folder / "1.json")
    assert "no .json files" in refused(nodes, sandbox, "pipes/")


@pytest.mark.parametrize("prefix", [*ASTRAY, "../outside/pose", "", None])
def test_saving_stays_inside(nodes, sandbox, prefix):
    said = nodes.TroupeSavePose.validate_inputs(filename_prefix=prefix)
    assert (said is True) == (prefix is None)
    with pytest.raises(ValueError, match="filename_prefix"):
        nodes.TroupeSavePose.execute(pose=json.loads(FRAME), filename_prefix=prefix)
    assert sorted(p.name for p in sandbox.outside.iterdir()) == ["secret.txt"]
    assert not list(sandbox.root.rglob("*.part"))


@needs_links
def test_saving_does_not_follow_links_out(nodes, sandbox):
    os.symlink(sandbox.outside, sandbox.output / "away")
    with pytest.raises(ValueError, match="leads outside"):
        nodes.TroupeSavePose.execute(pose=json.loads(FRAME), filename_prefix="away/pose")
    assert sorted(p.name for p in sandbox.outside.iterdir()) == ["secret.txt"]


@pytest.mark.parametrize("name", [*ASTRAY, "../outside/secret.txt", "notes.txt", ""])
def test_networks_come_from_the_model_folder_only(nodes, sandbox, name):
    (sandbox.models / "pose" / "notes.txt").write_text("x", "ascii")
    for part in ("body", "hand", "face"):
        said = nodes.TroupeDetectPose.validate_inputs(**{f"{part}_model": name})
        assert f"{part}_model" in said and "models/pose" in said
    with pytest.raises(ValueError, match="body_model"):
        nodes.TroupeDetectPose.execute(image=torch.zeros(1, 8, 8, 3), body_model=name)
