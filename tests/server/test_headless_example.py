"""examples/headless.py, as the README shows it, against a running server."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from demo.inputs import place_inputs
from demo.swap import with_nano

ROOT = Path(__file__).resolve().parents[2]


def run(server, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    place_inputs(server.input_dir, 128, 2)
    workflow = json.loads((ROOT / "workflows/api/compose_scene.json").read_text("ascii"))
    (tmp_path / "scene.json").write_text(json.dumps(with_nano(workflow)), "ascii")
    command = [sys.executable, str(ROOT / "examples" / "headless.py"), "scene.json"]
    command += ["--url", server.url, "--into", "got", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)


def test_it_sets_inputs_runs_and_fetches_the_picture(server, tmp_path):
    ran = run(
        server, tmp_path, "--set", "Scene: sampler.steps=2", "--set", "Scene.prompt=a moon walk"
    )
    assert ran.returncode == 0, ran.stderr
    (name,) = ran.stdout.split()
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (128, 128)
        prompt = json.loads(picture.text["prompt"])
    values = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    assert values["Scene: sampler"]["steps"] == 2
    assert values["Scene"]["prompt"] == "a moon walk"


def test_it_says_what_was_wrong(server, tmp_path):
    ran = run(server, tmp_path, "--set", "Nobody.steps=2")
    assert ran.returncode == 1 and "'Scene: sampler'" in ran.stderr
    ran = run(server, tmp_path, "--set", "Character photo.image=none.png")
    assert ran.returncode == 1 and "none.png" in ran.stderr
