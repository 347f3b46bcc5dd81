"""A training that runs out of memory says what would fit, and ComfyUI goes on working."""

import json
import threading
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.server.processes import children_of
from tools.client import ExecutionError

resource = pytest.importorskip("resource", reason="only Linux limits what another process gets")
SPARE_BYTES = 64 << 20  # for stacks of threads, whose lack is another failure


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def training(resolution: int, batch: int, steps: int) -> dict:
    yaml = f"batch: {{size: {batch}}}\nbuckets: {{upscale: true}}\nsamples: {{at_end: false}}"
    return {
        "data": node("TroupeLoadDataset", folder="twelve"),
        "options": node("TroupeTrainingOptions", yaml=yaml, memory_card="12 GB"),
        "train": node(
            "TroupeTrainLora",
            checkpoint="nano_sdxl.safetensors",
            dataset=["data", 0],
            preset="try out",
            steps=steps,
            rank=4,
            resolution=resolution,
            filename_prefix=f"memory/{resolution}",
            options=["options", 0],
        ),
    }


def trains(run: Path) -> bool:
    """Whether a run has told that its model is made and its first step begins."""
    try:
        lines = (run / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    except OSError:
        return False
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return any(e["event"] == "phase" and e["name"] == "train" for e in events)


def keep_from_growing(pid: int, runs: Path, done: threading.Event) -> None:
    """From the moment it trains, the process gets no more memory: allocations really fail."""
    known = set(runs.glob("*"))
    while not done.wait(0.01):
        new = set(runs.glob("*")) - known
        if any(map(trains, new)) and (children := children_of(pid)):
            pages = int(Path(f"/proc/{children[0]}/statm").read_text().split()[0])
            size = pages * resource.getpagesize() + SPARE_BYTES
            resource.prlimit(children[0], resource.RLIMIT_AS, (size, size))
            return


def test_the_message_says_what_would_fit_and_comfyui_lives(server):
    folder = server.input_dir / "twelve" / "12_zoe"  # one picture, twelve times in one batch
    folder.mkdir(parents=True)
    Image.fromarray(skimage.data.astronaut()).resize((64, 64)).save(folder / "zoe.png")
    (folder / "zoe.txt").write_text("a photo of zoe", "utf-8")
    done = threading.Event()
    runs = server.output_dir / "troupe" / "runs"
    limiter = threading.Thread(target=keep_from_growing, args=(server.pid, runs, done))
    limiter.start()
    try:
        with pytest.raises(ExecutionError) as failed:
            server.client.run(training(512, 12, 3), timeout=300)
    finally:
        done.set()
        limiter.join()
    said = str(failed.value)
    assert "Out of memory: this job needs about" in said and "GB by our estimate" in said
    assert "with memory.gradient_checkpointing on" in said
    assert "lower batch.size from 12" in said and "buckets.resolution" in said
    assert "Traceback" not in said
    assert not children_of(server.pid)
    # the same ComfyUI goes on
    shown = server.client.run(training(64, 1, 2), timeout=300)
    assert "2 steps" in shown["train"]["text"][0]
    newest = max(runs.glob("*/events.jsonl"), key=lambda p: p.stat().st_mtime)
    plan = json.loads(newest.read_text("utf-8").splitlines()[0])
    assert plan["event"] == "plan"
    assert 0.9 * 12 * 1024 < plan["memory"]["limit_mb"] < 12 * 1024  # the card that was chosen
    assert not list(server.output_dir.glob("loras/memory/512*"))
