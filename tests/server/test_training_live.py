"""What a page and a script see of trainings, and that none of it is needed."""

import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.client import ExecutionInterrupted
from tools.server import ROOT, ComfyServer

SIDE = 64


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def graph(steps: int, seed: int) -> dict:
    return {
        "data": node("TroupeLoadDataset", folder="live", trigger="zoe"),
        "train": node(
            "TroupeTrainLora",
            checkpoint="nano_sdxl.safetensors",
            dataset=["data", 0],
            preset="try out",
            steps=steps,
            rank=4,
            resolution=SIDE,
            seed=seed,
            options=["options", 0],
        ),
        "options": node("TroupeTrainingOptions", yaml="samples: {at_end: false}"),
    }


def write_pictures(server) -> None:
    folder = server.input_dir / "live"
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")


def ask(server, path: str, body: dict | None = None) -> tuple[int, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data=data)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_for(server, check, seconds: float = 240) -> dict:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for state in ask(server, "/troupe/training")[1]:
            if state["node"] == "train" and check(state):
                return state
        time.sleep(0.1)
    raise AssertionError(f"never seen: {ask(server, '/troupe/training')[1]}")


def follow(server, prompt: str) -> str:
    """The prompt that goes on for a paused one, as its history tells."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        entry = ask(server, f"/history/{prompt}")[1].get(prompt) or {"status": {"messages": []}}
        for kind, about in entry["status"]["messages"]:
            if kind == "troupe_paused":
                return about["next_prompt_id"]
        time.sleep(0.1)
    raise AssertionError("the history says nothing of a pause")


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    write_pictures(server)


def test_a_script_pauses_a_training_and_lets_it_go_on(server):
    prompt = server.client.queue(graph(60, seed=11))
    state = wait_for(server, lambda s: s["status"] == "training" and s["figures"]["step"] >= 2)
    assert state["plan"]["steps"] == 60 and state["plan"]["memory"]["total_mb"] > 0
    status, answer = ask(server, "/troupe/training/pause", {"run": state["run"]})
    assert status == 200
    with pytest.raises(ExecutionInterrupted):
        server.client.wait(prompt, timeout=120)
    paused = wait_for(server, lambda s: s["status"] == "paused")
    assert (paused["prompt_id"], paused["next_prompt_id"]) == (prompt, answer["prompt_id"])
    assert follow(server, prompt) == answer["prompt_id"]
    resumed = ask(server, "/troupe/training/resume", {"run": paused["run"]})
    assert resumed == (200, {"error": "", "prompt_id": answer["prompt_id"]})
    server.client.wait(answer["prompt_id"], timeout=240)
    done = wait_for(server, lambda s: s["status"] == "done")
    assert done["plan"]["resumed_from"] >= paused["figures"]["step"] >= 2
    assert [p[0] for p in done["curve"]] == list(range(done["plan"]["resumed_from"] + 1, 61))


def test_wrong_requests_are_answered(server):
    for path, body in (
        ("/troupe/training/pause", {"run": "unknown"}),
        ("/troupe/training/resume", {"run": "unknown"}),
    ):
        status, answer = ask(server, path, body)
        assert status == 409 and "not known" in answer["error"]
    assert ask(server, "/troupe/training/pause", {"no": 1})[0] == 400
    assert ask(server, "/troupe/training/pause", {"run": "x", "then": "fly"})[0] == 400


def test_everything_works_without_the_front_end_files(tmp_path, nano_models):
    pack = tmp_path / "pack"
    shutil.copytree(
        ROOT,
        pack,
        ignore=shutil.ignore_patterns("web", ".*", "output", "tests", "workflows", "docs"),
    )
    base = tmp_path / "comfy"
    shutil.copytree(nano_models, base / "models")
    with ComfyServer(base, cpu=True, pack=pack) as server:
        write_pictures(server)
        shown = server.client.run(graph(2, seed=1), timeout=240)
        assert shown["train"]["text"][0].startswith("my_lora.safetensors: 2 steps")
        assert "GB of memory planned" in shown["train"]["text"][0]
        assert Path(base / "output" / "loras" / "my_lora.safetensors").exists()
        assert ask(server, "/troupe/training")[1][0]["status"] == "done"
