"""ComfyUI's real editor in headless Chromium reads the workflow files of the pack.

Where there is no Chromium, a Debian machine's root installs it; elsewhere set CHROMIUM.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.inputs import SHIPPED_CANVAS, place_inputs
from tools.editor import Editor, find_chromium, read_workflow

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def editor(server):
    try:
        find_chromium()
    except FileNotFoundError:
        if shutil.which("apt-get") and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=True)
    place_inputs(server.input_dir, SHIPPED_CANVAS)
    with Editor(server.url) as page:
        yield page


@pytest.mark.parametrize("name", NAMES)
def test_editor_loads_a_workflow_and_would_queue_its_twin(editor, name):
    editor.load(read_workflow(FOLDER / f"{name}.json"))
    twin = json.loads((FOLDER / "api" / f"{name}.json").read_text("ascii"))
    assert editor.prompt() == twin
    assert editor.errors == []
