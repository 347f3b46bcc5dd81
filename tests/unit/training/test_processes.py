"""Several processes train one adapter: the weights of one with the whole batch, one writer."""

import json
import os
import sys
from pathlib import Path

import psutil  # noqa: F401 - it asks for more than free memory when it is imported
import torch
from safetensors.torch import load_file

from training import memory, merge, processes

MORE = {
    "schedule": {"steps": 30},  # time enough to be stopped on the way
    "saving": {"precision": "fp32", "every_steps": 0, "every_minutes": 0},
    "adapter": {"targets": "attention"},
    "samples": {"at_end": True, "steps": 1},  # made by the first, after the others have left
}


def read(process, stop_at: int | None = None) -> list[dict]:
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if stop_at and events[-1]["event"] == "step" and events[-1]["step"] == stop_at:
            process.stdin.write("stop\n")
            process.stdin.flush()
    process.wait(60)
    return events


def test_two_processes_reach_the_weights_of_one_with_the_double_batch(
    job_values, train, start_process, tmp_path
):
    """Five pictures in four sizes: batches of two, and of one, where the second has no picture."""
    one, _ = train(merge(MORE, {"batch": {"size": 2}}))
    job = merge(job_values, MORE)
    job["folders"] = job["folders"] | {"runs": str(tmp_path / "two")}

    stopped = read(start_process(job, "--processes", "2", "--control", "stdin"), stop_at=2)
    assert (stopped[-1]["event"], stopped[-1].get("saved")) == ("stopped", True), stopped[-3:]
    (run,) = Path(tmp_path / "two").glob("tiny-*")
    assert [p.name for p in (run / "states").iterdir()] == [
        f"state-{stopped[-1]['step']:08d}.safetensors"
    ]

    more = ("memory.processes=2", "memory.stream_weights=on")  # the same in the job, and streamed
    events = read(start_process(job, *more))
    plan, done = events[0], events[-1]
    assert plan["memory"]["streamed"]
    assert plan["processes"] == 2 and plan["resumed_from"] == stopped[-1]["step"]
    assert done["event"] == "done", events[-1]
    steps = [e["step"] for e in stopped + events if e["event"] == "step"]
    assert steps == list(range(1, 31))  # nobody else speaks

    assert len(done["samples"]) == 1 and all(Path(p).exists() for p in done["samples"][0])

    a, b = load_file(one.lora), load_file(done["lora"])
    moved = max(t.abs().max().item() for n, t in a.items() if "lora_up" in n)
    assert a.keys() == b.keys() and moved > 1e-3
    assert max((a[n] - b[n]).abs().max().item() for n in a) < 1e-5
    losses = [json.loads((p / "losses.json").read_text())["loss"] for p in (one.lora.parent, run)]
    assert torch.allclose(*(torch.tensor(x) for x in losses), atol=1e-5)


def test_gloo_stands_in_where_nccl_is_not_built_in(monkeypatch):
    """As in every wheel for Windows."""
    for built_in, backend in ((False, "gloo"), (True, "nccl")):
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda there=built_in: there)
        assert processes.backend_for(torch.device("cuda:0")) == backend
        assert processes.backend_for(torch.device("cpu")) == "gloo"
    lacking = {"2.3.1": False, "2.4.0+cu121": True, "2.6.0": True, "2.7.0": False, "2.14.1": False}
    assert {version: processes.lacks_libuv(version) for version in lacking} == lacking


def test_free_main_memory_is_known_without_proc(monkeypatch, caplog):
    def refuses(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(memory, "open", refuses, raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)  # as on Windows
    assert memory.main_memory_bytes() > 1 << 20
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert memory.main_memory_bytes() is None
    assert "pip install psutil" in caplog.text
