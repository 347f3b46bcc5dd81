"""TensorBoard only where asked, and a warning where the disk will run full."""

import shutil
import sys
from collections import namedtuple

import pytest

from training import JobError

MODULES = ("torch.utils.tensorboard", "torch.utils.tensorboard.writer")


def test_without_the_package_the_job_is_refused_before_anything_runs(train, tmp_path, monkeypatch):
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(JobError, match="pip install tensorboard"):
        train({"saving": {"tensorboard": True}})
    assert not list(tmp_path.glob("runs/*/states"))


def test_tensorboard_reads_the_curves_of_a_run_in_two_parts(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"saving": {"tensorboard": True, "every_steps": 1}, "schedule": {"steps": 4}}
    # the state of the third step is lost, so that step is written again
    _, events = train(changes, should_stop=lambda: len(saved(tmp_path)) == 2)
    assert events[-1]["step"] == 3
    saved(tmp_path)[-1].unlink()
    _, more = train(changes)
    assert more[0]["resumed_from"] == 2
    (folder,) = tmp_path.glob("runs/*/tensorboard")
    found = EventAccumulator(str(folder))
    found.Reload()
    assert {"loss/step", "loss/mean", "learning_rate", "memory/mb"} <= set(found.Tags()["scalars"])
    for label, name in (("loss/step", "loss"), ("learning_rate", "learning_rate")):
        told = [(e["step"], e[name]) for e in events + more if e["event"] == "step"]
        assert [step for step, _ in told] == [1, 2, 3, 3, 4]
        curve = [(point.step, point.value) for point in found.Scalars(label)]
        expected = [*told[:2], *told[3:]]  # what the first part wrote beyond its state is void
        assert curve == [(step, pytest.approx(value)) for step, value in expected]


def saved(folder):
    return sorted(folder.glob("runs/*/states/*.safetensors"))


def test_a_disk_that_will_run_full_is_told_beforehand(train, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1024))
    _, events = train({"schedule": {"steps": 1}})
    (warning,) = [e["message"] for e in events if e["event"] == "warning"]
    assert warning.startswith("The disk of") and "lower saving.keep" in warning
