"""Curves for Weights & Biases, which is optional: something in its place keeps what it is given."""

import sys

import pytest

from training import JobError


class Package:
    """What a run uses of wandb."""

    Settings = dict

    def __init__(self, refuses: bool = False):
        self.made, self.logged, self.ended, self.refuses = [], [], 0, refuses

    def init(self, **about):
        if self.refuses:
            raise RuntimeError("api_key not configured\n(no-tty)")
        self.made.append(about)
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.ended += 1


def test_curves_go_on_in_the_same_run(train, monkeypatch, tmp_path):
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    changes = {"saving": {"wandb": "offline", "every_steps": 1}, "schedule": {"steps": 3}}
    _, events = train(changes, should_stop=lambda: len(package.logged) > 0)
    _, more = train(changes)
    train(changes)  # nothing is left to do, so nothing is logged
    assert [a["mode"] for a in package.made] == ["offline"] * 2 and package.ended == 2
    assert len({a["id"] for a in package.made}) == 1 and package.made[0]["resume"] == "allow"
    steps = [(e["step"], e["loss"]) for e in events + more if e["event"] == "step"]
    assert [(v["step"], v["loss/step"]) for v in package.logged] == steps
    config = package.made[0]["config"]
    assert config["adapter"]["rank"] == 4
    assert str(tmp_path) not in str(config)  # nobody's folders leave the machine


def test_what_is_missing_is_said_before_anything_runs(train, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(JobError, match="pip install wandb"):
        train({"saving": {"wandb": "offline"}})
    monkeypatch.setitem(sys.modules, "wandb", Package(refuses=True))
    with pytest.raises(JobError, match=r"not configured \(no-tty\)\): run 'wandb login'"):
        train({"saving": {"wandb": "online"}})
    assert not list(tmp_path.glob("runs/*/states"))
