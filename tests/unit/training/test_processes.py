"""Several processes train one adapter: the weights of one with the whole batch, one writer."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from training import merge

MORE = {
    "schedule": {"steps": 6},
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
    assert (stopped[-1]["event"], stopped[-1]["saved"]) == ("stopped", True)
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
    assert steps == list(range(1, 7))  # nobody else speaks

    assert len(done["samples"]) == 1 and all(Path(p).exists() for p in done["samples"][0])

    a, b = load_file(one.lora), load_file(done["lora"])
    moved = max(t.abs().max().item() for n, t in a.items() if "lora_up" in n)
    assert a.keys() == b.keys() and moved > 1e-3
    assert max((a[n] - b[n]).abs().max().item() for n in a) < 1e-5
    losses = [json.loads((p / "losses.json").read_text())["loss"] for p in (one.lora.parent, run)]
    assert torch.allclose(*(torch.tensor(x) for x in losses), atol=1e-5)
