"""Trains a job in forked processes and kills them; prints what was found. See test_kills.py.

    python kills.py ROOT JOB.json KILLS

Forking saves the seconds that importing takes, so twenty kills fit into a test.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT, JOB, KILLS = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, str(ROOT))

import diffusers.models.unets.unet_2d_condition  # noqa: E402, F401 (before forking)
import peft  # noqa: E402, F401
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from training import Events, merge, parse_job, run_job  # noqa: E402
from training.state import States  # noqa: E402
from training.tensorfile import DamagedFile, read_tensors  # noqa: E402


def start(values: dict, keep_all: bool = False) -> int:
    """A forked process that runs the job; its id. `keep_all`: a finished run keeps its states."""
    if child := os.fork():
        return child
    try:
        if keep_all:
            make, States.finish = States.__init__, lambda self, state: None
            States.__init__ = lambda self, *a: (make(self, *a), setattr(self, "_keep", 10**6))[0]
        done = run_job(parse_job(values), Events()).lora is not None
    except BaseException:
        import traceback

        traceback.print_exc()
        done = False
    os._exit(0 if done else 1)


def states(values: dict, ending: str = "safetensors") -> list[Path]:
    return sorted(Path(values["folders"]["runs"]).glob(f"*/states/*.{ending}"))


def step_of(values: dict) -> int:
    """Step of the newest state, 0 if there is none."""
    return int(states(values)[-1].stem[-8:]) if states(values) else 0


def wait_until(happened: Callable[[], bool], child: int) -> None:
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return


def equals(path: Path, known: dict[str, dict]) -> bool:
    """Whether a state is bit for bit that of the run nobody disturbed."""
    tensors, _ = read_tensors(path)
    other, _ = read_tensors(known[path.name])
    return tensors.keys() == other.keys() and all(
        torch.equal(t.nan_to_num(-1.0), other[n].nan_to_num(-1.0)) for n, t in tensors.items()
    )


def main() -> dict:
    torch.set_num_threads(1)
    values = json.loads(JOB.read_text("utf-8"))
    runs = Path(values["folders"]["runs"])
    whole = merge(values, {"folders": {"runs": str(runs / "whole")}})
    assert os.waitpid(start(whole, keep_all=True), 0)[1] == 0
    known = {p.name: p for p in states(whole)}
    dice = random.Random(0)
    values = merge(values, {"folders": {"runs": str(runs / "killed")}})
    found = {"kills": 0, "writing": 0, "compared": 0, "wrong": [], "steps": []}
    while found["kills"] < KILLS:
        goal = step_of(values) + dice.randint(0, 3)
        child = start(values)
        wait_until(lambda goal=goal: step_of(values) >= goal, child)
        if dice.random() < 0.4:
            wait_until(lambda: bool(states(values, "part")), child)
        else:
            time.sleep(dice.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            raise SystemExit("the run ended before it could be killed often enough")
        found["kills"] += 1
        found["writing"] += bool(states(values, "part"))
        for path in states(values)[-1:]:
            try:
                found["compared"] += 1
                if not equals(path, known):
                    found["wrong"].append(path.name)
            except DamagedFile:
                found["wrong"].append(f"{path.name} is damaged")
        found["steps"].append(step_of(values))
    assert os.waitpid(start(values), 0)[1] == 0
    files = [next(Path(v["folders"]["runs"]).glob("*/lora.safetensors")) for v in (whole, values)]
    one, other = (load_file(f) for f in files)
    found["same weights"] = all(torch.equal(t, other[n]) for n, t in one.items())
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
