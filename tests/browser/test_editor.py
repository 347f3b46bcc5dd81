"""ComfyUI's real editor in headless Chromium reads the workflow files of the pack."""

import json
from pathlib import Path

import pytest

from demo.inputs import SHIPPED_CANVAS, place_inputs
from tools.editor import read_workflow

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def inputs(server):
    place_inputs(server.input_dir, SHIPPED_CANVAS)


@pytest.mark.parametrize("name", NAMES)
def test_editor_loads_a_workflow_and_would_queue_its_twin(editor, name):
    editor.load(read_workflow(FOLDER / f"{name}.json"))
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text("ascii"))
    assert editor.prompt() == api
    assert editor.errors == []
