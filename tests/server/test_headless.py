"""python -m headless against a running server: what it fetches, and each way a prompt can end."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from demo.inputs import place_inputs
from demo.swap import with_nano
from tools.server import ComfyServer

from .test_nano import picture_graph

ROOT = Path(__file__).resolve().parents[2]
DONE, REFUSED, WRONG, STOPPED, LOST, TOO_LATE, CTRL_C = 0, 1, 2, 3, 4, 5, 130


def hear_ctrl_c() -> None:
    """A session in the background has it ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(url: str, folder: Path, prompt: object, *options: str) -> subprocess.Popen:
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    (folder / "scene.json").write_text(text, "ascii")
    command = [sys.executable, "-m", "headless", str(folder / "scene.json"), "--url", url]
    command += ["--into", str(folder / "got"), *options]
    before = None if sys.platform == "win32" else hear_ctrl_c
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=before
    )


def run(url: str, folder: Path, prompt: object, *options: str) -> tuple[int, str, str]:
    """(exit code, what it printed, what it complained about)"""
    process = start(url, folder, prompt, *options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def slow(seed: int) -> dict:
    graph = picture_graph("slow", seed=seed)
    graph["sample"]["inputs"]["steps"] = 10_000
    return graph


def until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(server) -> list[str]:
    """Ids of what runs and waits."""
    queue = server.client.get_json("/queue")
    return [item[1] for item in [*queue["queue_running"], *queue["queue_pending"]]]


@pytest.fixture
def scene(server) -> dict:
    place_inputs(server.input_dir, 128, 2)
    return with_nano(json.loads((ROOT / "workflows/api/compose_scene.json").read_text("ascii")))


def test_it_sets_inputs_runs_and_fetches_the_picture(server, scene, tmp_path):
    told = ("--set", "Scene: sampler.steps=2", "--set", "Scene.prompt=a moon walk")
    code, out, err = run(server.url, tmp_path, scene, *told)
    assert code == DONE, err
    with Image.open(out.strip()) as picture:
        assert picture.size == (128, 128)
        prompt = json.loads(picture.text["prompt"])
    values = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    assert values["Scene: sampler"]["steps"] == 2
    assert values["Scene"]["prompt"] == "a moon walk"
    assert not list((tmp_path / "got").glob("*.part"))


def test_nodes_have_ids_and_classes_where_there_are_no_titles(server, tmp_path):
    graph = picture_graph("untitled", seed=21)
    told = ("--set", "sample.steps=3", "--set", "SaveImage.filename_prefix=no titles/1")
    code, out, err = run(server.url, tmp_path, graph, *told)
    assert code == DONE, err
    with Image.open(out.strip()) as picture:
        prompt = json.loads(picture.text["prompt"])
    assert prompt["sample"]["inputs"]["steps"] == 3
    assert prompt["save"]["inputs"]["filename_prefix"] == "no titles/1"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Nobody.steps=2", "'Scene: sampler'"),
        ("Scene: sampler.stepps=2", "did you mean 'steps'"),
        ("Scene.promt=x", "did you mean 'prompt'"),
        ("steps", "TITLE.INPUT=VALUE"),
        ("Scene: sampler.cfg=NaN", "NaN"),
        ("Scene: sampler.cfg=" + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_misspelt_set_is_refused(server, scene, tmp_path, told, said):
    before = server.client.get_json("/history")
    code, _, err = run(server.url, tmp_path, scene, "--set", told)
    assert code == WRONG and said in err and "Traceback" not in err
    assert server.client.get_json("/history") == before


def test_names_of_several_nodes_are_not_guessed(server, scene, tmp_path):
    code, _, err = run(server.url, tmp_path, scene, "--set", "LoadImage.image=x.png")
    assert code == WRONG and "several nodes" in err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"1": 2}', '{"1": {"inputs": {}}}', "[" * 100_000, '"\\ud800"']
)
def test_files_that_are_no_workflow(server, tmp_path, text):
    code, _, err = run(server.url, tmp_path, text)
    assert code == WRONG and "scene.json" in err and "Traceback" not in err


def test_the_editors_own_files_run_or_are_refused_in_words(server, scene, tmp_path):
    (path,) = (ROOT / "workflows").glob("[Cc]ompose?scene.json")
    workflow = json.loads(path.read_text("ascii"))
    swaps = [("--set", f"{key}.{name}={value}")
             for key, node in scene.items() for name, value in node["inputs"].items()
             if str(value).startswith("nano_")]  # fmt: skip
    told = [word for swap in swaps for word in swap]
    code, out, err = run(server.url, tmp_path, workflow, "--set", "Scene: sampler.steps=2", *told)
    assert code == DONE, err
    assert Path(out.strip()).is_file()
    workflow["nodes"][3]["mode"] = 4
    code, _, err = run(server.url, tmp_path, workflow)
    assert code == WRONG and "bypassed" in err and "Export (API)" in err


def test_a_prompt_that_is_refused_in_part_is_refused(server, scene, tmp_path):
    picture = next(n for n in scene.values() if n["class_type"] == "SaveImage")
    picture["inputs"]["images"] = ["999", 0]
    before = sorted(server.output_dir.rglob("*"))
    code, out, err = run(server.url, tmp_path, scene)
    assert code == REFUSED and "SaveImage" in err and not out
    until(lambda: not running(server))
    assert sorted(server.output_dir.rglob("*")) == before


def test_a_failing_node_is_named(server, tmp_path):
    (server.models_dir / "checkpoints" / "no_model.safetensors").write_bytes(b"not a model")
    code, _, err = run(
        server.url, tmp_path, picture_graph(seed=22), "--set", "base.ckpt_name=no_model.safetensors"
    )
    assert code == REFUSED and err.startswith("CheckpointLoaderSimple")


def test_stopped_and_deleted_prompts_are_told(server, tmp_path):
    process = start(server.url, tmp_path, slow(23))
    until(lambda: running(server))
    (ours,) = running(server)
    (tmp_path / "2").mkdir()
    second = start(server.url, tmp_path / "2", slow(24))
    until(lambda: len(running(server)) == 2)
    (waiting,) = set(running(server)) - {ours}
    server.client.post_json("/queue", {"delete": [waiting]})
    assert "deleted" in second.communicate(timeout=60)[1] and second.returncode == STOPPED
    server.client.interrupt(ours)
    assert "Stopped at node" in process.communicate(timeout=60)[1]
    assert process.returncode == STOPPED


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_prompt_it_queued(server, tmp_path, number):
    process = start(server.url, tmp_path, slow(25))
    until(lambda: running(server))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CTRL_C and "Traceback" not in err
    until(lambda: not running(server))


def test_a_prompt_that_takes_too_long_is_cancelled(server, tmp_path):
    code, _, err = run(server.url, tmp_path, slow(26), "--timeout", "1")
    assert code == TOO_LATE and "not done after 1 s" in err
    until(lambda: not running(server))


def test_a_server_that_is_not_there_or_was_restarted(nano_models, tmp_path):
    shutil.copytree(nano_models, tmp_path / "base" / "models")
    with ComfyServer(tmp_path / "base", cpu=True) as first:
        process = start(first.url, tmp_path, slow(27))
        until(lambda: running(first))
        port = int(first.url.rpartition(":")[2])
    with ComfyServer(tmp_path / "base", cpu=True, port=port):
        _, err = process.communicate(timeout=120)
        assert process.returncode == LOST and "restarted" in err
    code, _, err = run(f"http://127.0.0.1:{port}", tmp_path, slow(28))
    assert code == LOST and "cannot be reached" in err and "Traceback" not in err
