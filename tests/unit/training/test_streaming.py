"""Frozen weights streamed from main memory: no bit changes, and they are away when not in use."""

import itertools
import json
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from training import JobError, parse_job
from training.follower import assemble
from training.memory import GIB, apply_plan, choose, needs_of, stored_bytes
from training.settings import merge, parse_text
from training.state import State
from training.streaming import Streamer, checkpointing, pieces_of, with_streaming

ON = {"memory": {"stream_weights": "on"}}
OFF = {"memory": {"stream_weights": "off"}}
SHORT = {"schedule": {"steps": 2}, "saving": {"precision": "fp32", "thumbnail": False}}


def same_lora(a: Path, b: Path) -> bool:
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


@pytest.fixture
def assembled(make_loop):
    """assembled(changes) -> (plan, adapter, data, loop) as a run has them, ready to step."""

    def make(changes: dict):
        plan, _, data, _ = make_loop(changes)
        adapter, loop = assemble(plan, data, State())
        adapter.train()
        apply_plan(adapter.unet, plan.memory)
        return plan, adapter, data, loop

    return make


@pytest.fixture
def copies(monkeypatch):
    """What copies of weights lie on the device: `now` and `peak` bytes, `sent` in all."""
    count = {"now": 0, "peak": 0, "sent": 0}
    real = Streamer._send

    def gone(size: int) -> None:
        count["now"] -= size

    def send(self, index):
        tensors = real(self, index)
        for tensor in tensors:
            storage = tensor.untyped_storage()
            weakref.finalize(storage, gone, storage.nbytes())  # also sees what autograd holds
            count["now"] += storage.nbytes()
            count["sent"] += storage.nbytes()
        count["peak"] = max(count["peak"], count["now"])
        return tensors

    monkeypatch.setattr(Streamer, "_send", send)
    return count


@pytest.mark.parametrize(
    "changes",
    [
        *({"adapter": {"kind": k}} for k in ("lora", "dora", "pissa", "loha", "lokr")),
        {"adapter": {"kind": "oft", "alpha": None}},
        {"adapter": {"targets": "all", "dropout": 0.2}, "batch": {"accumulation": 2}},
        {"memory": {"base_weights": "int8"}, "adapter": {"kind": "loha"}},
        {"memory": {"base_weights": "fp8", "precision": "bf16"}},
        {"memory": {"precision": "bf16"}, "optimizer": {"weights": "bf16"}},
        {"text_encoders": {"learning_rate_1": 1e-3}},
        {"memory": {"gradient_checkpointing": "selective"}},
        {"validation": {"share": 0.2, "every_steps": 1}, "optimizer": {"ema_decay": 0.9}},
    ],
    ids=lambda c: "-".join(str(v) for part in c.values() for v in part.values()),
)
def test_no_bit_changes(assembled, changes):
    states = []
    for streaming in (OFF, ON):
        plan, adapter, _, loop = assembled(merge(changes, streaming))
        assert bool(plan.memory.streamed) is (streaming is ON)
        start = {n: t.clone() for n, t in adapter.state().items()}
        for number in range(3):
            assert not loop.step(number).skipped
        states.append(adapter.state())
        assert any(not torch.equal(start[n], t) for n, t in states[-1].items())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())


@pytest.mark.parametrize("base", ["full", "int8"])
def test_weights_are_there_only_while_they_are_used(assembled, copies, base):
    plan, adapter, _, loop = assembled(merge(ON, {"memory": {"base_weights": base}}))
    names, streamer = plan.memory.streamed, adapter.unet.streamer
    assert len(names) > 5 and all(len(piece) > 1 for piece in streamer._pieces)
    sizes = [sum(home.nbytes for home in homes) for homes in streamer._homes]
    assert sum(sizes) == plan.memory.streamed_bytes
    at_once = max(a + b for a, b in itertools.pairwise(sizes))
    visits = []

    def here() -> list[int]:
        pieces = enumerate(streamer._pieces)
        return [i for i, piece in pieces if any(slots[n].numel() for slots, n in piece)]

    def look(index):
        def hook(*_):
            visits.append(index)
            assert here() == [index]

        return hook

    for index, name in enumerate(names):
        adapter.unet.get_submodule(name).register_forward_pre_hook(look(index))
    for number in range(2):
        visits.clear()
        before, copies["peak"] = copies["sent"], 0
        loop.step(number)
        every = list(range(len(names)))
        assert visits == every + every[::-1]  # the plan's order is that of the computation
        assert here() == [] and copies["now"] == 0
        assert copies["sent"] - before == plan.memory.moved == 2 * sum(sizes)
        assert copies["peak"] <= at_once < sum(sizes)
    with torch.no_grad():  # as samples and validation do
        copies["peak"] = 0
        loop._loss(loop._sampler.batch(0), 0)
    assert copies["now"] == 0 and max(sizes) <= copies["peak"] <= at_once
    resident = sum(t.nbytes for t in (*adapter.unet.parameters(), *adapter.unet.buffers()))
    own = sum(t.nbytes for t in adapter.tensors())
    whole = {n: tuple(s) for n, s in plan.checkpoint.part_shapes("unet").items()}
    frozen = sum(torch.Size(s).numel() * stored_bytes(plan.job, s, 4) for s in whole.values())
    assert resident - own == pytest.approx(frozen - sum(sizes), rel=0.1)  # and scales of 8 bit


@pytest.mark.parametrize("visit", [2, -3], ids=["forward", "backward"])
def test_an_error_inside_leaves_a_model_that_trains_on(assembled, copies, visit):
    plan, adapter, _, loop = assembled(ON)
    expected = assembled(OFF)
    for number in range(2):
        expected[3].step(number)
    names, seen = plan.memory.streamed, []
    fail_at = visit % (2 * len(names))

    def fail(*_):
        seen.append(1)
        if len(seen) == fail_at + 1:
            raise RuntimeError("no luck")

    for name in names:
        inside = next(m for m in adapter.unet.get_submodule(name).modules() if not [*m.children()])
        inside.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no luck"):
        loop.step(0)
    loop.updater.zero_grad()
    for number in range(2):
        loop.step(number)
    assert copies["now"] == 0
    assert all(torch.equal(t, expected[1].state()[n]) for n, t in adapter.state().items())


def test_compiled_blocks_are_streamed_as_well(assembled, copies):
    """Weights that come anew each time are the same to compiled code, and are let go by it."""
    from training.compiled import compile_blocks

    expected = assembled(OFF)
    plan, adapter, _, loop = assembled(ON)
    compile_blocks(adapter.unet, "aot_eager")
    counters = torch._dynamo.utils.counters["stats"]
    counters.clear()
    try:
        losses = [loop.step(0).loss]
        graphs = counters["unique_graphs"]
        for number in (0, 0):  # of the same size
            losses.append(loop.step(number).loss)
        assert counters["unique_graphs"] == graphs > 0
    finally:
        torch._dynamo.reset()
    assert losses == pytest.approx([expected[3].step(0).loss for _ in range(3)], rel=1e-5)
    sizes = [sum(home.nbytes for home in homes) for homes in adapter.unet.streamer._homes]
    assert copies["now"] == 0 and 0 < copies["peak"] <= 2 * max(sizes) < plan.memory.streamed_bytes


class LateStream:
    """Stands in for a side stream of a GPU: copies are made when somebody waits for them."""

    def __init__(self):
        self.pending, self.waited_for_main = [], 0

    def wait_stream(self, main) -> None:
        self.waited_for_main += 1

    def catch_up(self) -> None:
        while self.pending:
            target, source = self.pending.pop(0)
            target.copy_(source)

    @contextmanager
    def current(self):
        stream = self

        class Queue(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                if func is not torch.Tensor.copy_:
                    return func(*args, **(kwargs or {}))
                assert kwargs == {"non_blocking": True}
                stream.pending.append(args)
                return args[0].fill_(float("nan"))

        with Queue():
            yield


def test_what_is_copied_beside_the_computation_is_waited_for(assembled, monkeypatch):
    """The order of waiting on a GPU, which the machines of these tests do not have."""
    expected = assembled(OFF)
    plan, adapter, _, loop = assembled(ON)
    side = adapter.unet.streamer._side = LateStream()
    main = SimpleNamespace(wait_stream=lambda stream: stream.catch_up())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream.current())
    ahead, names = [], plan.memory.streamed
    for name in names:
        module = adapter.unet.get_submodule(name)
        module.register_forward_pre_hook(lambda *_: ahead.append(bool(side.pending)))
    for number in range(2):
        assert loop.step(number).loss == expected[3].step(number).loss
        assert not side.pending
    one_way = [True] * (len(names) - 1) + [False]  # the next is on its way while one computes
    assert ahead == one_way * 4
    assert side.waited_for_main == 4 * len(names)
    assert all(torch.equal(t, expected[1].state()[n]) for n, t in adapter.state().items())


def test_pause_samples_stop_and_resume_give_the_same_file(train, tmp_path):
    """One run with all of it, streamed, beside one that does nothing but train."""
    from training import pausing

    job = merge(SHORT, {"schedule": {"steps": 4}, "saving": {"every_steps": 1}})
    job = merge(job, {"samples": {"at_end": True, "every_steps": 2}})
    runs = tmp_path / "streamed"
    streamed = merge(merge(job, ON), {"folders": {"runs": str(runs)}})

    def pause_once_then_stop() -> bool:
        for run in runs.glob("tiny-*"):
            said = (run / "events.jsonl").read_text("utf-8")
            if "resumed" in said.split('"event"')[-1]:
                return True
            if '"paused"' in said:
                (run / pausing.PAUSE_FILE).unlink(missing_ok=True)
            elif [*run.glob("states/state-*")]:
                (run / pausing.PAUSE_FILE).touch()
        return False

    outcome, events = train(streamed, should_stop=pause_once_then_stop)
    assert [e["event"] for e in events].count("paused") == 1
    assert outcome.lora is None and 0 < outcome.step < 4
    outcome, events = train(streamed)
    assert outcome.lora and events[0]["resumed_from"] > 0
    assert events[0]["memory"]["streamed"] and events[0]["memory"]["moved_mb"] >= 0
    expected, _ = train(merge(job, OFF))
    assert same_lora(outcome.lora, expected.lora)
    pictures = [
        {p.name: p.read_bytes() for p in o.lora.parent.glob("samples/*.png")}
        for o in (outcome, expected)
    ]
    assert len(pictures[0]) == 3 and pictures[0] == pictures[1]


# ------------------------------------------------------------------------------- the plan


def sdxl_plan(config, unet, budget: float, device: str = "cuda", **memory):
    shapes = {n: tuple(p.shape) for n, p in unet.named_parameters()}
    values = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}, "memory": memory}
    there = torch.device(device)
    job = parse_job(values)
    needs = needs_of(job, {"unet": unet}, config, shapes, (1024, 1024), "bf16", there)
    pieces = pieces_of(config, shapes, lambda s: stored_bytes(job, s, 2))
    plan = choose(needs, checkpointing(job), round(budget * GIB))
    return with_streaming(job, plan, pieces, there), pieces


def test_full_sdxl_streams_only_what_has_to_be(sdxl_unet, sdxl_config):
    def plan(budget, device="cuda", **memory):
        return sdxl_plan(sdxl_config, sdxl_unet, budget, device, **memory)[0]

    roomy, tight, tiny = plan(10), plan(5), plan(1)
    assert roomy.twice and roomy.fits and not roomy.streamed  # computing twice comes first
    assert tight.fits and 0 < len(tight.streamed) < len(tiny.streamed)
    assert tight.total > 0.9 * tight.limit  # no more than has to be
    assert tight.moved == 2 * tight.streamed_bytes
    assert not tiny.fits and tiny.streamed_bytes > 0.9 * roomy.weights
    assert tiny.weights < 0.1 * roomy.weights
    asked = plan(24, stream_weights="on")
    assert asked.streamed == tiny.streamed and set(asked.twice) == set(tiny.twice)
    assert not plan(1, stream_weights="off").streamed
    assert not plan(1, gradient_checkpointing="off").streamed
    assert not plan(1, "cpu").streamed  # there is no other memory to stream from
    halved = plan(24, stream_weights="on", base_weights="int8").streamed_bytes
    assert halved < 0.65 * tiny.streamed_bytes
    with pytest.raises(JobError, match="what is streamed is computed twice"):
        plan(24, stream_weights="on", gradient_checkpointing="off")


def test_pieces_are_what_diffusers_computes_twice(sdxl_unet, sdxl_config):
    from training.keys import unet_key_table

    _, pieces = sdxl_plan(sdxl_config, sdxl_unet, 24)
    kinds = [type(sdxl_unet.get_submodule(p.name)).__name__ for p in pieces]
    assert kinds.count("BasicTransformerBlock") == 70 and kinds.count("ResnetBlock2D") == 16
    for piece in pieces:
        module = sdxl_unet.get_submodule(piece.name)
        assert piece.size == 2 * sum(p.numel() for p in module.parameters() if p.ndim > 1)
        assert hasattr(sdxl_unet.get_submodule(piece.unit), "gradient_checkpointing")
    names = {v: k for k, v in unet_key_table(sdxl_config).items()}
    sgm = {names[n]: tuple(p.shape) for n, p in sdxl_unet.named_parameters()}
    assert pieces_of(sdxl_config, sgm, lambda _: 2) == pieces


def test_the_plan_command_and_yaml_know_streaming(job_values, tmp_path, capfd):
    from training.cli import main

    values = parse_text("memory: {stream_weights: on, gradient_checkpointing: off}")
    with pytest.raises(JobError, match="stream_weights"):
        main_job = parse_job(merge(job_values, values))
        assert main_job.memory.stream_weights == "on"  # YAML itself reads a truth there
        from training.plan import make_plan

        make_plan(main_job)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_values), "utf-8")
    assert main(["plan", str(path), "memory.stream_weights=on"]) == 0
    said = capfd.readouterr().out
    assert "streamed from main memory" in said and "moved per step" in said
