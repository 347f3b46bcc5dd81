"""The training process as ComfyUI starts it: whose environment, whose job, whose words."""

import importlib
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tools.inprocess import ROOT

# what packs set for themselves while ComfyUI runs, and what teams of processes are told by
POISON = {
    "OMP_NUM_THREADS": "3",
    "MKL_NUM_THREADS": "3",
    "KMP_BLOCKTIME": "0",
    "TORCH_CPP_LOG_LEVEL": "INFO",
    "LD_LIBRARY_PATH": "/nowhere",
    "QT_QPA_PLATFORM_PLUGIN_PATH": "/nowhere",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONIOENCODING": "cp1252:strict",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "other",
}


@pytest.fixture
def trainer(pack, monkeypatch):
    module = importlib.import_module(f"{pack.__name__}.nodes.runtime.trainer")
    monkeypatch.setattr(module, "SAVE_SECONDS", 5)  # a fault must not take hours to show
    return module


@pytest.fixture
def job(comfy, pack, nano, tmp_path) -> dict:
    """A training of three steps."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(noise).save(tmp_path / "pictures" / "a.png")
    training = importlib.import_module(f"{pack.__name__}.training")
    values = {
        "name": "zoe",
        "base": {
            "checkpoint": str(nano.checkpoint),
            "tokenizer": str(comfy.path / "comfy" / "sd1_tokenizer"),
        },
        "dataset": {"folder": str(tmp_path / "pictures"), "trigger": "zoe"},
        "buckets": {"resolution": 64, "step": 16},
        "adapter": {"rank": 4, "alpha": 4},
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"steps": 3},
        "memory": {"device": "cpu"},
        "samples": {"at_end": False},
        "saving": {"precision": "fp32"},
        "folders": {"runs": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")},
    }
    return training.parse_job(values).model_dump(mode="json")


def patience(seconds: float = 400):
    end = time.monotonic() + seconds

    def check() -> None:
        assert time.monotonic() < end, "it hangs"

    return check


def test_what_other_packs_put_into_the_environment_changes_no_training(
    trainer, job, tmp_path, monkeypatch
):
    plain = trainer.run_training(job, tmp_path, "zoe", lambda _: None, patience())
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "yaml.py").write_text("raise SystemExit('not ours')")
    for name, value in {**POISON, "PYTHONPATH": str(tmp_path / "shadow")}.items():
        monkeypatch.setenv(name, value)
    folders = {"runs": str(tmp_path / "again"), "cache": str(tmp_path / "fresh")}
    job = job | {"folders": job["folders"] | folders}
    poisoned = trainer.run_training(job, tmp_path, "zoe", lambda _: None, patience())
    a, b = load_file(plain["lora"]), load_file(poisoned["lora"])
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert max(t.abs().max() for k, t in a.items() if "lora_up" in k) > 0
    assert not list(tmp_path.glob("*.job.json"))


def test_the_environment_is_that_of_comfyui_s_start(tmp_path):
    """As ComfyUI does it: our script before all packs; then packs; then a training."""
    code = (
        "import importlib.util, json, os, sys\n"
        "def load(path):\n"
        "    spec = importlib.util.spec_from_file_location(path, path)\n"
        "    module = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n"
        "    return module\n"
        "load('prestartup_script.py')\n"
        "os.environ.update(json.loads(sys.argv[1]))\n"
        "del os.environ['HF_HOME']\n"
        "print(json.dumps(load('nodes/runtime/environment.py').clean_environment()))\n"
    )
    users = {
        "OMP_NUM_THREADS": "5",
        "KMP_AFFINITY": "disabled",
        "CUDA_VISIBLE_DEVICES": "1,0",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
        "HF_HOME": "/models",
        "https_proxy": "http://proxy",
        "RANKING": "kept",
    }
    theirs = {"LOCAL_RANK": "0", "MASTER_ADDR": "pod-0"}  # of the machine that starts ComfyUI
    command = [sys.executable, "-c", code, json.dumps(POISON)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **users, **theirs}, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    assert users.items() <= found.items()
    assert not {*POISON, *theirs} & {*found} - {*users, *os.environ}
    assert not {"LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & {*found}


# the program itself up to the run; it reads its job only when both have written theirs
MEETING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[2])
(folder / f"{time.time_ns()}.here").touch()
while len(list(folder.glob("*.here"))) % 2:
    time.sleep(0.01)
from training import cli
from training.run import Outcome
import training.run
def run_job(job, events, stop):
    events.emit("done", lora=str(job.seed))
    return Outcome(1, Path("x"))
training.run.run_job = run_job
sys.exit(cli.main(sys.argv[3:]))
"""


def test_two_comfyuis_with_one_output_folder_train_their_own_jobs(
    trainer, job, tmp_path, monkeypatch
):
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-c", MEETING, str(ROOT), str(tmp_path), *arguments]

    monkeypatch.setattr(trainer, "program_command", command)
    for pair in range(3):
        found = {}

        def train(seed: int, found=found) -> None:
            own = job | {"seed": seed}
            done = trainer.run_training(own, tmp_path, "zoe", lambda _: None, patience())
            found[seed] = done["lora"]

        threads = [threading.Thread(target=train, args=(2 * pair + i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {seed: str(seed) for seed in (2 * pair, 2 * pair + 1)}


def test_a_lora_of_another_job_is_not_taken(trainer, job, tmp_path, monkeypatch):
    said = json.dumps({"event": "done", "lora": "x", "job": "0" * 64})
    command = [sys.executable, "-c", f"print({said!r})"]
    monkeypatch.setattr(trainer, "program_command", lambda *_: command)
    with pytest.raises(trainer.TrainingFailed, match="another job"):
        trainer.run_training(job, tmp_path, "zoe", lambda _: None, patience())


def test_the_last_words_are_those_of_this_process_in_any_script(trainer, job, tmp_path):
    (tmp_path / "zoe.log").write_text("an earlier training\n", "utf-8")
    words = "Zo\xeb \u65e5\u672c: nothing"
    code = f"import sys; sys.stderr.write({words!r}); sys.exit(5)"
    own = trainer.program_command()
    command = [*own[: own.index("utf8") + 1], "-c", code]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "program_command", lambda *_: command)
        patch.setenv("PYTHONIOENCODING", "cp1252:strict")
        with pytest.raises(trainer.TrainingFailed) as error:
            trainer.run_training(job, tmp_path, "zoe", lambda _: None, patience())
    assert words in str(error.value) and "earlier" not in str(error.value)
