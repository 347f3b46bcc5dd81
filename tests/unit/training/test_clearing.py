"""Clearing up and small files never end a run: other programs may hold any of them open."""

import errno
import fnmatch
import json
import os
from pathlib import Path

import pytest

from tests.unit.training.test_state import make_state, silent
from training import TrainingError
from training.errors import StateError
from training.state import States


class Held:
    """Files that another program holds open, by patterns, as programs do on Windows."""

    def __init__(self, monkeypatch, *names: str, readable: bool = True):
        self.names = list(names)
        actions = [(os, "replace"), (os, "rename"), (os, "link"), (Path, "unlink")]
        for owner, name in actions + ([] if readable else [(Path, "read_bytes")]):
            monkeypatch.setattr(owner, name, self._refusing(getattr(owner, name)))
        monkeypatch.setattr("training.wholefile.PATIENCE_SECONDS", 0.05)

    def _refusing(self, action):
        def refuse_or_do(*paths, **more):
            name = os.path.basename(paths[-1])
            if any(fnmatch.fnmatch(name, pattern) for pattern in self.names):
                raise PermissionError(errno.EACCES, "Access is denied", str(paths[-1]))
            return action(*paths, **more)

        return refuse_or_do


def snapshot(folder: Path) -> dict[str, tuple]:
    """What tells a file that was written anew from one that was left alone."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("events.jsonl", "lock")
    }


def test_an_old_state_that_is_open_is_removed_the_next_time(tmp_path, monkeypatch):
    states = States(tmp_path, "digest", keep=1)
    states.save(make_state(1))
    (tmp_path / "states" / "state-00000009.safetensors.1.part").write_bytes(b"half")
    held = Held(monkeypatch, "state-00000001*", "state-00000009*")
    states.save(make_state(2))
    states.finish(make_state(3))
    assert states.newest(silent).step == 3
    assert [p.stem for p in states.files()] == ["state-00000003", "state-00000001"]
    held.names.clear()
    states.save(make_state(4))
    assert states.newest(silent).step == 4
    assert [p.name for p in (tmp_path / "states").iterdir()] == ["state-00000004.safetensors"]


def test_a_damaged_state_that_is_open_is_no_bar(tmp_path, monkeypatch):
    states = States(tmp_path, "digest", keep=2)
    states.save(make_state(1))
    states.save(make_state(2)).write_bytes(b"torn")
    Held(monkeypatch, "state-00000002*")
    assert states.newest(lambda _: None).step == 1


def test_the_newest_state_is_not_dropped_because_a_backup_reads_it(tmp_path, monkeypatch):
    states = States(tmp_path, "digest", keep=2)
    states.save(make_state(1))
    states.save(make_state(2))
    held = Held(monkeypatch, "state-00000002*", readable=False)
    with pytest.raises(StateError, match="Another program has state-00000002.safetensors open"):
        states.newest(silent)
    held.names.clear()
    assert states.newest(silent).step == 2


def test_a_finished_run_keeps_its_whole_state_where_that_is_open(tmp_path, monkeypatch):
    states = States(tmp_path, "digest", keep=2)
    states.save(make_state(3))
    Held(monkeypatch, "state-00000003.safetensors")
    states.finish(make_state(3))  # would write it anew, smaller
    assert [p.name for p in (tmp_path / "states").iterdir()] == ["state-00000003.safetensors"]
    assert states.newest(silent).update.memory


def test_a_finished_training_is_queued_again_and_nothing_is_written(train, monkeypatch, tmp_path):
    changes = {"saving": {"output": str(tmp_path / "loras" / "zoe.safetensors")}}
    whole, _ = train(changes)
    folder = next((tmp_path / "runs").glob("tiny-*"))
    before = snapshot(folder), whole.lora.read_bytes()
    with monkeypatch.context() as patch:
        Held(patch, "loss*", "job.yaml", "lora*", "zoe*")
        again, events = train(changes)
    assert events[-1]["event"] == "done" and events[-1]["reused"]
    assert not [e for e in events if e["event"] == "warning"]
    assert (snapshot(folder), again.lora.read_bytes()) == before
    assert not list(tmp_path.rglob("*.part"))


def test_a_plot_is_never_worth_an_error(train, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        Held(patch, "loss.png", "losses.json")
        outcome, events = train()
    said = [e["message"] for e in events if e["event"] == "warning"]
    assert outcome.lora.is_file() and events[-1]["plot"] is None
    assert any("loss.png" in text for text in said) and any("losses.json" in t for t in said)


def test_a_lora_that_is_in_use_is_found_out_before_the_training(train, monkeypatch, tmp_path):
    target = tmp_path / "loras" / "zoe.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"mapped into ComfyUI's memory")
    changes = {"saving": {"output": str(target)}}
    with monkeypatch.context() as patch:
        Held(patch, "zoe.safetensors")
        with pytest.raises(TrainingError, match="saving.output.*Another program has zoe"):
            train(changes)
    assert target.read_bytes() == b"mapped into ComfyUI's memory"
    assert not list(tmp_path.rglob("*state-*"))
    outcome, _ = train(changes)
    assert target.read_bytes() == next(tmp_path.glob("runs/*/lora.safetensors")).read_bytes()


def test_what_a_killed_run_left_goes_at_the_next_start(train, tmp_path):
    _, events = train(should_stop=lambda: True)
    folder = Path(events[0]["run"])
    (folder / "samples").mkdir(exist_ok=True)
    left = [
        folder / "loss.png.part",
        folder / "lora.safetensors.1.troupe.part",
        folder / "lora.unchecked.safetensors",
        folder / "samples" / "a.png.1.troupe.part",
        folder / "states" / "state-00000001.safetensors.77.part",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    train()
    assert not [path for path in left if path.exists()]
    assert json.loads((folder / "losses.json").read_text())["loss"]
