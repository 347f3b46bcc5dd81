"""The training program as a process: events, exit codes, and every way to end it too early."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.systems import WINDOWS
from training import CheckpointError, DatasetError, JobError, merge

ROOT = Path(__file__).resolve().parents[3]
# big enough for the writing of a state to be seen from outside
CHANGES = {
    "adapter": {"rank": 64},
    "schedule": {"steps": 14},
    "saving": {"every_steps": 1, "precision": "fp32"},
}


def events_of(process: subprocess.Popen):
    for line in process.stdout:
        yield json.loads(line)


def finish(process: subprocess.Popen) -> dict:
    *_, last = events_of(process)
    process.wait(60)
    return last


@pytest.fixture
def values(job_values, tmp_path):
    def make(name: str) -> dict:
        return merge(job_values, CHANGES | {"folders": {"runs": str(tmp_path / name)}})

    return make


def equal_files(one: str, two: str) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def part_files(runs: str) -> list[Path]:
    return list(Path(runs).glob("*/states/*.part"))


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait(60)


def test_a_killed_run_goes_on_bit_identical(values, start_process, tmp_path):
    expected = finish(start_process(values("whole")))
    assert expected["event"] == "done" and expected["steps"] == 14
    job = values("killed")
    runs = job["folders"]["runs"]
    job["folders"]["cache"] = str(tmp_path / "fresh cache")

    process = start_process(job)  # while pictures are encoded
    for event in events_of(process):
        if event["event"] == "phase" and event["done"] == 2:
            break
    kill(process)

    process = start_process(job)  # between two checkpoints or in one, as chance has it
    for event in events_of(process):
        assert event["event"] != "plan" or event["resumed_from"] == 0
        if event["event"] == "step" and event["step"] == 3:
            break
    kill(process)

    process = start_process(job)  # while a state is being written
    for event in events_of(process):
        if event["event"] == "plan":
            assert event["resumed_from"] >= 2
            break
    deadline = time.monotonic() + 60
    while process.poll() is None and not part_files(runs) and time.monotonic() < deadline:
        pass
    kill(process)
    assert part_files(runs), "the process was not caught writing"

    newest = sorted(Path(runs).glob("*/states/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])  # and the newest state is lost with it
    process = start_process(job, "--control", "stdin")  # stopped politely at last
    events = []
    for event in events_of(process):
        events.append(event)
        if event["event"] == "step" and len([e for e in events if e["event"] == "step"]) == 2:
            process.stdin.write("stop\n")
            process.stdin.flush()
    process.wait(60)
    assert any(e["event"] == "warning" and newest.name in e["message"] for e in events)
    assert (event["event"], event["saved"], process.returncode) == ("stopped", True, 3)
    plan = next(e for e in events if e["event"] == "plan")
    assert event["step"] <= plan["resumed_from"] + 4  # within a step or so

    process = start_process(job)
    process.stdin.close()  # means nothing without --control
    first, *_, done = events_of(process)
    process.wait(60)
    assert first["resumed_from"] == event["step"]
    assert done["event"] == "done" and process.returncode == 0
    assert equal_files(done["lora"], expected["lora"])
    losses = [json.loads(Path(e["losses"]).read_text("utf-8")) for e in (done, expected)]
    assert losses[0] == losses[1] and len(losses[0]["loss"]) == 14
    assert not part_files(runs)


WAITING = """
import sys
sys.path.insert(0, sys.argv[1])
from training import cli
def wait(job, assignments, events, stop):
    events.emit("phase", name="waiting")
    return cli.STOPPED if stop.wait(60) else cli.BROKEN
cli._run = wait
sys.exit(cli.main(["job.yaml", *sys.argv[2:]]))
"""


def test_every_way_to_ask_for_a_stop_is_heard():
    """The asking alone, without the weight of a run; the run's answer is tested above."""
    ways = {
        "the word": (["--control", "stdin"], lambda p: p.stdin.write("stop\n") and p.stdin.flush()),
        "the parent is gone": (["--control", "stdin"], lambda p: p.stdin.close()),
    }
    if not WINDOWS:  # where a process can be asked by signals
        ways["SIGTERM"] = ([], lambda p: p.terminate())
        ways["Ctrl-C"] = ([], lambda p: p.send_signal(signal.SIGINT))
    for name, (options, ask) in ways.items():
        command = [sys.executable, "-c", WAITING, str(ROOT), *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            assert json.loads(process.stdout.readline())["name"] == "waiting"
            ask(process)
            assert process.wait(60) == 3, name


def test_only_events_reach_stdout(tmp_path):
    code = (
        "import os, subprocess, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from training import cli, settings\n"
        "honest = settings.read_job\n"
        "def noisy(*args):\n"
        "    print('hello from a library')\n"
        "    os.write(1, b'hello from C')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"hello from a child\")'])\n"
        "    return honest(*args)\n"
        "settings.read_job = noisy\n"
        "sys.exit(cli.main([sys.argv[2]]))\n"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "gone.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (event,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert event["event"] == "error" and event["kind"] == "job"
    assert "gone.yaml" in event["message"] and result.returncode == 2
    assert result.stderr.count("hello from") == 3


def test_the_program_hides_no_module_of_others(tmp_path):
    """Started by path, the folder of our modules must not be where `import events` looks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit\n"
        "def look():\n"
        "    import sys\n"
        "    names = [m for m in ('events', 'state', 'plan', 'run', 'cache') if m in sys.modules]\n"
        "    sys.stderr.write(f'TOP {names} {sys.path}')\n"
        "atexit.register(look)\n"
    )
    for command in (
        [str(ROOT / "training" / "__main__.py"), "--settings"],
        ["-m", "training", "--settings"],
    ):
        result = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            cwd=ROOT if command[0] == "-m" else tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            timeout=120,
        )
        assert result.returncode == 0
        assert "optimizer.learning_rate = 0.0001" in result.stdout
        assert "TOP []" in result.stderr
        assert str(ROOT / "training") + "'" not in result.stderr


# ------------------------------------------------------------------------------------ bad input


def refuses(train, changes: dict, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as error:
        train(changes)
    assert all(w in str(error.value) for w in words), str(error.value)
    assert "\n" not in str(error.value)


def test_bad_input_is_refused_before_anything_is_written(train, job_values, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(job_values["base"]["checkpoint"]).read_bytes()[:5000])
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / "a.png").write_bytes(b"not a picture")
    base = job_values["base"]
    gone = str(tmp_path / "gone.safetensors")
    refuses(train, {"base": base | {"checkpoint": gone}}, CheckpointError, "gone.safetensors")
    refuses(train, {"base": base | {"checkpoint": str(broken)}}, CheckpointError, "broken", "again")
    refuses(train, {"base": base | {"tokenizer": str(empty)}}, JobError, "base.tokenizer", "vocab")
    refuses(train, {"base": base | {"tokenizer": ""}}, JobError, "base.tokenizer")
    refuses(train, {"dataset": {"folder": str(empty)}}, DatasetError, "empty")
    refuses(train, {"dataset": {"folder": str(unreadable)}}, DatasetError, "unreadable")
    refuses(train, {"dataset": {"folder": str(tmp_path / "nowhere")}}, DatasetError, "nowhere")
    refuses(train, {"dataset": {"folder": ""}}, DatasetError, "folder")
    refuses(train, {"memory": {"device": "cuda:9"}}, JobError, "memory.device", "cuda:9")
    refuses(train, {"buckets": {"min_size": 4000}}, DatasetError, "resolution")
    assert not Path(job_values["folders"]["runs"]).exists()
    assert not Path(job_values["folders"]["cache"]).exists()


def test_a_vanished_picture_is_named(train, job_values, pictures, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(pictures, folder)
    from training import DatasetSettings, parse_job
    from training.dataset import open_dataset

    items = open_dataset(DatasetSettings(folder=str(folder))).items
    (folder / "p3.png").unlink()
    values = merge(job_values, {})
    values["dataset"] = {"items": items}
    assert parse_job(values).dataset.items == items
    with pytest.raises(DatasetError, match="p3.png"):
        train({"dataset": {"items": items, "folder": ""}})


def test_a_missing_package_is_named(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    with pytest.raises(ImportError) as error:
        train()
    assert error.value.name == "peft"
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nsys.modules['yaml'] = None\n"
        "from training import cli\nsys.exit(cli.main([sys.argv[2]]))"
    )
    path = tmp_path / "job.yaml"
    path.write_text("name: x\n", "utf-8")
    command = [sys.executable, "-c", code, str(ROOT), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    event = json.loads(result.stdout)
    assert result.returncode == 2 and event["kind"] == "package"
    assert "'yaml'" in event["message"] and "pip install" in event["message"]


def test_running_out_of_memory_says_what_would_fit(job_values, tmp_path, monkeypatch):
    import io
    import threading

    from training import Events, cli

    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_values), "utf-8")
    errors = {
        torch.OutOfMemoryError("CUDA out of memory"): 4,
        MemoryError(): 4,
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"): 4,
        RuntimeError("something else"): 1,
        OSError(28, "No space left on device"): 2,
    }
    for error, code in errors.items():

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr("training.run.run_job", fails)
        stream = io.StringIO()
        assert cli._run(path, [], Events(stream), threading.Event()) == code, error
        event = json.loads(stream.getvalue())
        assert event["event"] == "error"
        if code == 4:
            assert event["kind"] == "memory"
            assert "gradient_checkpointing" in event["message"]
            assert "resolution" in event["message"]


def test_the_tokenizer_of_a_comfyui_is_found(job_values, tmp_path, monkeypatch):
    from training import cli, parse_job

    folder = tmp_path / "comfy" / "sd1_tokenizer"
    folder.mkdir(parents=True)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    own = parse_job(job_values)
    assert cli.with_tokenizer(own) == own
    without = parse_job(merge(job_values, {"base": {"tokenizer": ""}}))
    assert cli.with_tokenizer(without).base.tokenizer == str(folder)
