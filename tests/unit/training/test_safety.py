"""A run loses nothing: full disk, cut states, broken numbers, too little memory, pauses."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.systems import needs_limits
from training import TrainingError, merge
from training.state import States

HERE = Path(__file__).resolve()
SAVING = {"saving": {"every_steps": 1, "every_minutes": 0, "precision": "fp32"}}


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def states(runs: Path) -> list[Path]:
    return sorted(runs.glob("*/states/*.safetensors"))


def warnings(events: list[dict]) -> list[str]:
    return [e["message"] for e in events if e["event"] == "warning"]


# -------------------------------------------------------------------------------------- full disk


@needs_limits
def test_a_full_disk_keeps_the_state_and_the_run_goes_on_when_there_is_room(
    job_values, tmp_path, train
):
    """On a file system of eight megabytes that really is full, where we may mount one; elsewhere
    the limit on a process' file size stands in for it."""
    job = merge(job_values, SAVING | {"schedule": {"steps": 8}, "adapter": {"rank": 16}})
    whole, _ = train(SAVING | {"schedule": {"steps": 8}, "adapter": {"rank": 16}})
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    (tmp_path / "disk").mkdir()
    command = [sys.executable, HERE.with_name("full_disk.py"), HERE.parents[3], tmp_path]
    mount = ["unshare", "--mount", "--map-root-user"]
    script = 'mount -t tmpfs -o size=8m none "$0" && exec "$@" mounted'
    trial = subprocess.run(
        [*mount, "sh", "-c", script, tmp_path / "disk", "true"], capture_output=True, check=False
    )
    if trial.returncode == 0:
        command = [*mount, "sh", "-c", script, tmp_path / "disk", *command]
    result = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums as here
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    saved = found["saved before"]
    assert found["warned"].startswith(f"The state of step {saved + 1} cannot be saved")
    assert "make room on the disk" in found["error"] and found["kind"] == "TrainingError"
    assert found["states after"] == [saved] and found["leftovers"] == []
    assert found["resumed from"] == saved and found["finished"] == 8
    assert same_weights(whole.lora, tmp_path / "lora.safetensors")


def test_a_state_cut_short_gives_way_to_the_one_before(train, tmp_path):
    runs = tmp_path / "cut"
    changes = merge(SAVING, {"schedule": {"steps": 6}, "folders": {"runs": str(runs)}})
    train(changes, should_stop=lambda: len(states(runs)) == 2)
    before, newest = states(runs)
    digest = train(changes, should_stop=lambda: True)[1][0]["digest"]
    whole = newest.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):  # as a power cut may leave it
        newest.write_bytes(whole[:size])
        told: list[str] = []
        found = States(newest.parents[1], digest, 2).newest(told.append)
        assert found.step == int(before.stem[-8:])
        assert len(told) == 1 and "damaged" in told[0] and newest.name in told[0]
        assert not newest.exists()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the right length, one bit wrong
    outcome, events = train(changes)
    plan = next(e for e in events if e["event"] == "plan")
    assert plan["resumed_from"] == int(before.stem[-8:])
    assert any("damaged" in w and newest.name in w for w in warnings(events))
    expected, _ = train(merge(SAVING, {"schedule": {"steps": 6}}))
    assert same_weights(outcome.lora, expected.lora)


# ------------------------------------------------------------------------------- broken numbers


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_a_picture_that_breaks_is_named_and_the_step_is_left_out(make_loop, weights):
    changes = {"batch": {"size": 2}, "buckets": {"step": 64}, "optimizer": {"weights": weights}}
    plan, adapter, data, loop = make_loop(changes)
    honest = data.batch

    def broken(indices, *rest):
        batch = honest(indices, *rest)
        batch.latents[1] = torch.nan
        return batch

    adapter.unet.train()
    number = next(n for n in range(20) if len(plan.sampler.batch(n)) == 2)
    before = {k: v.clone() for k, v in adapter.state().items()}
    data.batch = broken
    step = loop.step(number)
    guilty = plan.placements[plan.sampler.batch(number)[1]].item.path.name
    assert step.skipped and step.pictures == (guilty,) and step.layer in adapter.names
    assert all(torch.equal(v, before[k]) for k, v in adapter.state().items())
    data.batch = honest
    assert not loop.step(number + 1).skipped


# ------------------------------------------------------------------------------ too little memory


@needs_limits
def test_out_of_memory_ends_with_advice_and_an_exit_code(job_values, tmp_path):
    folder = tmp_path / "many" / "12_zoe"  # one picture, twelve times in one batch
    folder.mkdir(parents=True)
    shutil.copy(Path(job_values["dataset"]["folder"]) / "p0.png", folder)
    job = merge(job_values, {"dataset": {"folder": str(folder.parent)}, "batch": {"size": 12}})
    job = merge(job, {"buckets": {"resolution": 512, "upscale": True}})
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    command = [sys.executable, HERE.with_name("no_memory.py"), HERE.parents[3]]
    result = subprocess.run(
        [*map(str, command), str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert result.returncode == 4, result.stderr[-3000:]
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["event"] == "error" and events[-1]["kind"] == "memory"
    assert "Out of memory" in events[-1]["message"]
    assert "buckets.resolution" in events[-1]["message"]


# -------------------------------------------------------------------------------------- pauses


def test_a_pause_frees_the_device_and_changes_nothing(train, tmp_path):
    from training import pausing

    runs = tmp_path / "paused"
    changes = merge(SAVING, {"schedule": {"steps": 5}, "folders": {"runs": str(runs)}})
    asked = threading.Event()

    def ask_and_let_go() -> None:
        while not states(runs):
            time.sleep(0.01)
        (run,) = runs.glob("tiny-*")
        (run / pausing.PAUSE_FILE).touch()
        asked.set()
        time.sleep(1.5)
        (run / pausing.PAUSE_FILE).unlink()

    helper = threading.Thread(target=ask_and_let_go)
    helper.start()
    outcome, events = train(changes)
    helper.join()
    kinds = [e["event"] for e in events]
    assert kinds.count("paused") == kinds.count("resumed") == 1
    paused = events[kinds.index("paused")]
    assert events[kinds.index("resumed")]["time"] - paused["time"] > 0.2
    expected, _ = train(merge(SAVING, {"schedule": {"steps": 5}}))
    assert same_weights(outcome.lora, expected.lora)


def test_a_resumed_run_keeps_its_threads(train, tmp_path):
    """Sums on the processor depend on them, and the environment may have changed meanwhile."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        begun, logs = '"event": "step"', (tmp_path / "runs").glob
        stopped, _ = train(
            {"schedule": {"steps": 3}},
            lambda: any(begun in log.read_text("utf-8") for log in logs("*/events.jsonl")),
        )
        torch.set_num_threads(1)
        done, events = train({"schedule": {"steps": 3}})
        assert stopped.lora is None and done.lora and torch.get_num_threads() == 2
        assert [
            e for e in events if e["event"] == "warning" and "began with 2 threads" in e["message"]
        ]
        torch.set_num_threads(1)
        _, events = train({"schedule": {"steps": 3}})  # nothing is trained: nothing to say
        assert not [e for e in events if "threads" in e.get("message", "")]
    finally:
        torch.set_num_threads(before)


def test_a_paused_run_can_be_stopped(train, tmp_path):
    from training import pausing

    runs = tmp_path / "paused"
    changes = merge(SAVING, {"schedule": {"steps": 5}, "folders": {"runs": str(runs)}})

    def stop_when_paused() -> bool:
        for run in runs.glob("tiny-*"):
            if states(runs):
                (run / pausing.PAUSE_FILE).touch()
                return (run / "events.jsonl").read_text("utf-8").find('"paused"') > 0
        return False

    outcome, events = train(changes, should_stop=stop_when_paused)
    assert outcome.lora is None and events[-1]["event"] == "stopped" and events[-1]["saved"]


def test_a_stop_that_cannot_be_saved_says_so(train, tmp_path, monkeypatch):
    import errno

    from training import run

    def full(self, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.States, "save", full)
    with pytest.raises(TrainingError, match="make room on the disk and start again"):
        train({"schedule": {"steps": 1}})
