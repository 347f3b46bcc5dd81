"""The workflow files: what is in them, and that file and API twin are one graph."""

import json
from pathlib import Path

import pytest

from demo.swap import NANO
from headless import to_api
from tools.sketch_parts import MODELS
from tools.sketches import SKETCHES

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str, api: bool = False) -> dict:
    path = FOLDER / "api" / f"{name}.json" if api else FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="ascii"))


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return server.client.object_info()


def test_every_sketch_has_its_files():
    assert NAMES == sorted(SKETCHES)


@pytest.mark.parametrize("name", NAMES)
def test_file_has_format_notes_groups_and_thumbnail(name):
    workflow = read(name)
    assert workflow["version"] == 0.4
    assert workflow["groups"]
    kinds = [node["type"] for node in workflow["nodes"]]
    assert "MarkdownNote" in kinds
    for node in workflow["nodes"]:
        if node["type"] != "MarkdownNote":
            pack = "troupe" if node["type"].startswith("Troupe") else "comfy-core"
            assert node["properties"]["cnr_id"] == pack
    assert (FOLDER / f"{name}.jpg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", NAMES)
def test_every_model_file_is_described_where_it_is_chosen(name):
    described = set()
    for node in read(name)["nodes"]:
        for model in node.get("properties", {}).get("models", ()):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] == MODELS[model["name"]]["directory"]
            assert model["url"].endswith(".safetensors")
            described.add((node["id"], model["name"]))
    chosen = {
        (node["id"], value)
        for node in read(name)["nodes"]
        for value in node.get("widgets_values") or ()
        if isinstance(value, str) and value.endswith(".safetensors")
    }
    assert described == chosen
    assert {model for _, model in chosen} <= set(NANO)


@pytest.mark.parametrize("name", NAMES)
def test_api_twin_is_the_conversion_of_the_file(name, object_info):
    assert to_api(read(name), object_info) == read(name, api=True)


def test_every_node_of_the_pack_is_in_a_workflow_or_stands_alone(object_info):
    """Nodes outside of all workflows are those that replace or refine a part of one."""
    used = {node["class_type"] for name in NAMES for node in read(name, api=True).values()}
    ours = {name for name in object_info if name.startswith("Troupe")}
    assert ours - used == {
        "TroupeAdapterOptions",
        "TroupeApplyReference",
        "TroupeCaptionImages",
        "TroupeCombineDatasets",
        "TroupeDataOptions",
        "TroupeDatasetFromImages",
        "TroupeDetectPose",
        "TroupeDrawPose",
        "TroupeLearningOptions",
        "TroupeLoadFrames",
        "TroupePoseRegions",
        "TroupeSavePose",
    }
