"""The training loop: exact resuming, atomic files, bounded slices."""

import argparse
import json

import pytest
import torch
from torch import nn

from demo.train import record, vae
from demo.train.loop import Plan, _Optimizer, arguments, run_stage
from demo.train.runs import Run, TrainingError, load_weights
from demo.train.vae import VaeStage
from demo.world import Draws

PLAN = Plan(steps=40, learning_rate=0.05, warmup=3, average=0.9)


class ToyStage:
    """Learns a random linear map; noise from the generator, data from the step."""

    name = "toy"

    def __init__(self, args, device):
        self.seed = args.seed
        self.steps_made = []
        self.trained = nn.ModuleDict({"map": nn.Linear(4, 2), "drop": nn.Dropout(0.2)})

    def batch(self, step):
        self.steps_made.append(step)
        draws = Draws(self.seed, step)
        return {"x": torch.tensor([[draws.between(-1, 1) for _ in range(4)] for _ in range(8)])}

    def loss(self, batch, generator):
        noise = 0.1 * torch.randn(8, 2, generator=generator)
        out = self.trained["drop"](self.trained["map"](batch["x"]))
        loss = (out - batch["x"][:, :2] + noise).pow(2).mean()
        return loss, {"copy": loss.detach()}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TROUPE_TRAIN_DIR", str(tmp_path))


def _args(*words: str) -> argparse.Namespace:
    return arguments("").parse_args(["--device", "cpu", "--report", "0", *words])


def _train(folder, monkeypatch, *slices: int):
    monkeypatch.setenv("TROUPE_TRAIN_DIR", str(folder))
    for steps in slices:
        run_stage(ToyStage, PLAN, _args("--steps", str(steps)))
    state = Run("toy").load_state(torch.device("cpu"))
    assert state["step"] == slices[-1]
    return state, load_weights("toy", "map")


def test_a_resumed_run_ends_bit_identical(tmp_path, monkeypatch):
    whole, whole_weights = _train(tmp_path / "a", monkeypatch, 20)
    parts, part_weights = _train(tmp_path / "b", monkeypatch, 7, 8, 20)
    for name, value in whole["trained"].items():
        assert torch.equal(value, parts["trained"][name])
    for name, value in whole_weights.items():
        assert torch.equal(value, part_weights[name])
    assert whole["seen"] == parts["seen"] == 160
    assert not torch.equal(whole_weights["weight"], whole["trained"]["map.weight"]), "averaged"


def test_a_half_written_checkpoint_is_ignored(tmp_path, monkeypatch):
    before, _ = _train(tmp_path, monkeypatch, 5)
    (tmp_path / "toy" / "state.pt.part").write_bytes(b"torn")
    after, _ = _train(tmp_path, monkeypatch, 9)
    assert after["step"] == 9 and before["step"] == 5


def test_a_slice_ends_when_its_time_is_over():
    run_stage(ToyStage, PLAN, _args("--minutes", "0"))
    step = Run("toy").load_state(torch.device("cpu"))["step"]
    assert step == 1, "one step is always made, so that slices always get further"


def test_reports_are_json_lines(tmp_path):
    run_stage(ToyStage, PLAN, _args("--steps", "4"))
    lines = (tmp_path / "toy" / "log.jsonl").read_text("utf-8").splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == 4 and last["seen"] == 32
    assert last["loss"] >= 0 and last["pictures_per_s"] > 0


def test_workers_make_the_same_batches(tmp_path, monkeypatch):
    _, alone = _train(tmp_path / "a", monkeypatch, 6)
    monkeypatch.setenv("TROUPE_TRAIN_DIR", str(tmp_path / "b"))
    run_stage(ToyStage, PLAN, _args("--steps", "6", "--workers", "2"))
    assert torch.equal(load_weights("toy", "map")["weight"], alone["weight"])


def test_two_processes_learn_as_one(tmp_path):
    words = ("--batch", "4", "--steps", "2", "--precision", "float32", "--threads", "1")
    run_stage(VaeStage, vae.PLAN, _args(*words, "--processes", "2"))
    state = Run("vae").load_state(torch.device("cpu"))
    assert (state["step"], state["seen"]) == (2, 16)

    # The same by hand: each step moves along the mean of both processes' gradients.
    args = _args(*words)
    torch.manual_seed(0)
    stage = VaeStage(args, torch.device("cpu"))
    parameters = list(stage.trained.parameters())
    optimizer = _Optimizer(parameters, vae.PLAN)
    for step in range(2):
        for number in (2 * step, 2 * step + 1):
            loss, _ = stage.loss(stage.batch(number), torch.Generator().manual_seed(number))
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(parameters, vae.PLAN.clip)
        optimizer.step(vae.PLAN.rate(step))
    for name, value in stage.trained.state_dict().items():
        assert torch.allclose(value, state["trained"][name], atol=1e-5), name


def test_the_rate_rises_stays_and_falls():
    plan = Plan(steps=1000, learning_rate=1.0, warmup=100, final=0.3)
    assert plan.rate(0) == pytest.approx(0.01)
    assert plan.rate(300) == 1.0
    assert plan.rate(850) == pytest.approx(0.55)
    assert plan.rate(1000) == pytest.approx(0.1)


def test_a_missing_stage_says_what_to_run():
    with pytest.raises(TrainingError, match=r"python -m demo\.train\.toy"):
        load_weights("toy", "map")


def test_a_record_counts_learning_and_not_the_time_between(tmp_path):
    entry = {"device": "cpu", "pictures_per_s": 10.0, "rate": 1e-3, "loss": 0.5}
    log = [
        entry | {"time": 0.0, "step": 100, "seen": 3600},
        entry | {"time": 90_000.0, "step": 50, "seen": 1800},  # the last checkpoint, a day later
        entry | {"time": 90_360.0, "step": 150, "seen": 5400, "loss": 0.25},
    ]
    (tmp_path / "unet").mkdir()
    lines = "\n".join(map(json.dumps, log)) + '\n{"time": 1, "st'
    (tmp_path / "unet" / "log.jsonl").write_text(lines, "utf-8")
    assert record.hours(log) == pytest.approx(0.2)
    assert record.table(tmp_path).splitlines()[2:] == [
        "| unet | 150 | 5,400 | 0.2 | cpu | loss 0.25 |"
    ]
