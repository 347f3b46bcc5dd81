"""TensorBoard only where asked, and a warning where the disk will run full."""

import shutil
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from training import JobError

WRITER = "torch.utils.tensorboard"


def test_without_the_package_the_job_is_refused_before_anything_runs(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, WRITER, None)
    with pytest.raises(JobError, match="pip install tensorboard"):
        train({"saving": {"tensorboard": True}})
    assert not list(tmp_path.glob("runs/*/states"))


def test_curves_go_where_tensorboard_finds_them(train, tmp_path, monkeypatch):
    """A writer that keeps what it is given in place of the package, which is optional."""
    written, made = [], []

    class Writer:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, label, value, step):
            written.append((label, value, step))

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, WRITER, SimpleNamespace(SummaryWriter=Writer))
    changes = {"saving": {"tensorboard": True, "every_steps": 1}, "schedule": {"steps": 3}}
    _, events = train(changes, should_stop=lambda: len(written) > 6)
    _, more = train(changes)
    assert made[0][0].endswith("tensorboard")
    assert [step for _, step in made] == [1, more[0]["resumed_from"] + 1]
    losses = [(step, value) for label, value, step in written if label == "loss/step"]
    assert losses == [(e["step"], e["loss"]) for e in events + more if e["event"] == "step"]
    assert {"learning_rate", "loss/mean"} <= {label for label, _, _ in written}


def test_a_disk_that_will_run_full_is_told_beforehand(train, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1024))
    _, events = train({"schedule": {"steps": 1}})
    (warning,) = [e["message"] for e in events if e["event"] == "warning"]
    assert warning.startswith("The disk of") and "lower saving.keep" in warning
