"""Saved states: exact, whole or not there, the newest good one wins, one process per run."""

import errno
import math
import os
import subprocess
import sys

import pytest
import torch

from training.errors import StateError
from training.optimizer_state import UpdateState, load_memory, save_memory
from training.state import VERSION, RunLock, State, States


def make_state(step: int) -> State:
    random = torch.Generator().manual_seed(step)
    return State(
        step=step,
        adapter={"a.down": torch.randn(2, 3, generator=random), "a.up": torch.zeros(3, 2)},
        update=UpdateState(
            optimizer="some.Optimizer",
            memory={
                0: {"exp_avg": torch.randn(2, 3, generator=random), "step": torch.tensor(4.0)},
                1: {"k": 3, "p0": torch.zeros(2, dtype=torch.uint8), "none": None},
            },
            groups=[{"d": torch.tensor(0.5, dtype=torch.float64), "betas": [0.9, 0.1]}, {"k": 2}],
            mean=[torch.randn(2, generator=random) for _ in range(12)],
            updates=step,
        ),
        average={"a.down": torch.randn(2, 3, generator=random)},
        losses=[0.1 * i for i in range(step - 1)] + [math.nan],
        skipped=1,
        seconds=12.5,
        started=1e9 + 0.25,
    )


def same(one, two) -> bool:
    """Whether two nests of tensors and numbers are equal to the bit, with their types."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.fixture
def states(tmp_path) -> States:
    return States(tmp_path, "digest", keep=2)


def silent(message: str) -> None:
    raise AssertionError(message)


def test_a_state_comes_back_bit_identical(states):
    saved = make_state(3)
    states.save(saved)
    found = states.newest(silent)
    assert (found.step, found.skipped, found.seconds, found.started) == (3, 1, 12.5, 1e9 + 0.25)
    assert found.losses[:2] == saved.losses[:2] and math.isnan(found.losses[2])
    assert all(torch.equal(found.adapter[k], v) for k, v in saved.adapter.items())
    assert same(found.update.__dict__, saved.update.__dict__)
    assert same(found.average, saved.average)
    assert same(found.weights, {**saved.adapter, **saved.average})


class EightBit(torch.Tensor):
    """A tensor made of tensors, as the 8-bit optimizers of torchao keep them."""

    @staticmethod
    def __new__(cls, codes, scale, signed, kind):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=kind)

    def __init__(self, codes, scale, signed, kind):
        self.codes, self.scale, self.signed = codes, scale, signed

    def __tensor_flatten__(self):
        return ["codes", "scale"], [self.signed, self.dtype]

    @classmethod
    def __tensor_unflatten__(cls, parts, context, shape, stride):
        assert shape == parts["codes"].shape and stride == parts["codes"].stride()
        return cls(parts["codes"], parts["scale"], *context)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments, options=None):
        raise AssertionError(f"{function} on a tensor that is only saved")


def test_eight_bit_memory_comes_back_as_what_it_was(states, monkeypatch):
    monkeypatch.setattr(EightBit, "__module__", "torchao.optim.subclass_8bit")
    monkeypatch.setitem(sys.modules, "torchao.optim.subclass_8bit", sys.modules[__name__])
    codes = torch.randint(0, 256, (3, 4), dtype=torch.uint8)
    made = EightBit(codes, torch.rand(3), True, torch.float32)
    state = make_state(1)
    state.update.memory = {0: save_memory({"exp_avg": made, "step": torch.tensor(2.0)})}
    states.save(state)
    saved = states.newest(silent).update.memory[0]
    memory = load_memory(saved, torch.device("cpu"), {})
    assert set(memory) == {"exp_avg", "step"}
    found = memory["exp_avg"]
    assert type(found) is EightBit and found.signed is True and found.dtype == torch.float32
    assert torch.equal(found.codes, codes) and torch.equal(found.scale, made.scale)


def test_what_cannot_be_saved_is_named():
    with pytest.raises(StateError, match="'hook' as function.*another optimizer"):
        save_memory({"hook": lambda: None})


def test_only_the_newest_are_kept(states):
    for step in (1, 2, 10, 300):
        states.save(make_state(step))
    assert [p.stem for p in states.files()] == ["state-00000300", "state-00000010"]
    assert states.newest(silent).step == 300


@pytest.mark.parametrize("damage", ["truncated", "zeros at the end", "flipped", "empty", "text"])
def test_a_damaged_newest_falls_back_to_the_one_before(states, damage):
    states.save(make_state(1))
    path = states.save(make_state(2))
    good = path.read_bytes()
    path.write_bytes(
        {
            "truncated": good[: len(good) // 2],
            "zeros at the end": good[:-64] + b"\0" * 64,  # what a power cut leaves
            "flipped": good[:-3] + bytes([good[-3] ^ 4]) + good[-2:],
            "empty": b"",
            "text": b"hello",
        }[damage]
    )
    said = []
    assert states.newest(said.append).step == 1
    assert len(said) == 1 and path.name in said[0]
    assert [p.stem for p in states.files()] == ["state-00000001"]


def test_nothing_good_is_nothing(states, tmp_path):
    assert states.newest(silent) is None
    states.save(make_state(1)).write_bytes(b"")
    assert states.newest(lambda _: None) is None


def test_another_run_s_state_is_not_taken(states, tmp_path):
    States(tmp_path, "other", keep=2).save(make_state(1))
    said = []
    assert states.newest(said.append) is None and "not a state of this run" in said[0]


def test_a_newer_format_is_left_alone(states, monkeypatch):
    monkeypatch.setattr("training.state.VERSION", 99)
    path = states.save(make_state(1))
    monkeypatch.setattr("training.state.VERSION", VERSION)
    with pytest.raises(StateError, match="newer version"):
        states.newest(silent)
    assert path.exists()


def test_a_full_disk_leaves_the_older_state(states, monkeypatch):
    states.save(make_state(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            states.save(make_state(2))
    assert states.newest(silent).step == 1
    assert len(list(states.files()[0].parent.iterdir())) == 1


def test_leftovers_of_a_killed_writer_are_removed(states):
    path = states.save(make_state(1))
    (path.parent / "state-00000002.safetensors.123.part").write_bytes(b"half")
    assert states.newest(silent).step == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_disk_without_locks_is_no_other_process(tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("training.state._lock", no_locks)
    with RunLock(tmp_path / "run"), RunLock(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").exists()


def test_one_process_per_run(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from training.state import RunLock\n"
        "with RunLock(Path(sys.argv[2])): print('held', flush=True); sys.stdin.read()"
    )
    root = os.path.dirname(os.path.dirname(sys.modules["training"].__file__))
    other = subprocess.Popen(
        [sys.executable, "-c", code, root, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(StateError, match="another process"), RunLock(tmp_path / "run"):
            pass
        other.kill()  # the lock goes with the process, however it ends
        other.wait()
        with RunLock(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.communicate()
