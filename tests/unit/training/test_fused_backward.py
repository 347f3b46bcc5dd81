"""Gradients used one by one: the same weights to the bit, less memory, broken steps told."""

import pytest
import torch

from training import JobError, merge, parse_job
from training.memory import GIB, choose
from training.plan import make_plan
from training.state import State, capture, restore

PLAIN = {"optimizer": {"max_grad_norm": 0}, "memory": {"fused_backward": "off"}}
FUSED = {"optimizer": {"max_grad_norm": 0}, "memory": {"fused_backward": "on"}}


def steps(made, numbers) -> list:
    _, adapter, _, loop = made
    adapter.unet.train()
    return [loop.step(n) for n in numbers]


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"up_factor": 4.0, "ema_decay": 0.5, "max_grad_value": 1e-4}},
        {"optimizer": {"kind": "lion"}, "memory": {"gradient_checkpointing": "on"}},
        {"optimizer": {"kind": "adafactor"}, "adapter": {"kind": "lokr"}},
        {"optimizer": {"kind": "schedule_free"}, "adapter": {"kind": "dora"}},
        {"text_encoders": {"learning_rate_1": 1e-3}, "adapter": {"dropout": 0.2}},
    ],
    ids=["loraplus-ema-value", "lion-twice", "adafactor-lokr", "schedule-free-dora", "texts"],
)
def test_the_weights_are_those_of_the_ordinary_step(make_loop, changes):
    plain = make_loop(merge(PLAIN, changes))
    fused = make_loop(merge(FUSED, changes))
    assert fused[0].memory.fused and not plain[0].memory.fused
    assert fused[0].digest == plain[0].digest  # the same run: one may go on with the other's state
    before = {k: v.clone() for k, v in fused[1].state().items()}
    for a, b in zip(steps(plain, range(3)), steps(fused, range(3)), strict=True):
        assert a.loss == b.loss and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-6)
        assert a.learning_rate == b.learning_rate and not b.skipped
    assert equal(plain[1].state(), fused[1].state())
    assert not equal(before, fused[1].state())
    with plain[3].updater.averaged(), fused[3].updater.averaged():
        assert equal(plain[1].state(), fused[1].state())


@pytest.mark.parametrize("kind", ["adamw", "schedule_free"])
def test_a_saved_state_goes_on_to_the_bit_in_either_way(make_loop, kind):
    change = {"optimizer": {"kind": kind, "ema_decay": 0.5 * (kind == "adamw")}}
    whole = make_loop(merge(FUSED, change))
    steps(whole, range(2))
    state = capture(State(step=2), whole[1], whole[3].updater)
    other = make_loop(merge(PLAIN, change))
    again = make_loop(merge(FUSED, change))
    for made in (other, again):
        restore(state, made[1], made[3].updater)
        steps(made, range(2, 4))
    steps(whole, range(2, 4))
    assert equal(whole[1].state(), again[1].state())
    assert equal(whole[1].state(), other[1].state())


def test_gradients_never_stand_together(make_loop):
    _, adapter, _, loop = made = make_loop(FUSED)
    most = [0]

    def count(_):
        most[0] = max(most[0], sum(p.grad is not None for p in adapter.parameters()))

    for p in adapter.parameters():  # runs after the hook that uses the gradient up
        p.register_post_accumulate_grad_hook(count)
    steps(made, range(1))
    assert most == [0] and all(p.grad is None for p in adapter.parameters())


def test_a_broken_loss_moves_nothing_and_a_broken_gradient_only_counts_as_zero(make_loop):
    plan, adapter, data, loop = made = make_loop(FUSED)
    steps(made, range(2))
    before = {k: v.clone() for k, v in adapter.state().items()}
    honest = data.batch

    def broken(*arguments):
        batch = honest(*arguments)
        batch.latents[0] = torch.nan
        return batch

    data.batch = broken
    (step,) = steps(made, [2])
    assert step.skipped and not step.partly and equal(before, adapter.state())
    data.batch = honest
    early = adapter.names[0]
    _, pair = next(adapter.pairs())
    ruin = pair.down.register_hook(lambda g: g * torch.inf)
    (step,) = steps(made, [3])
    ruin.remove()
    assert step.skipped and step.partly and step.layer == early
    after = adapter.state()
    assert all(torch.isfinite(v).all() for v in after.values())
    assert not equal(before, after)
    assert not steps(made, [4])[0].skipped


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"max_grad_norm": 1.0}}, "max_grad_norm 0"),
        ({"batch": {"accumulation": 2}}, "batch.accumulation 1"),
        ({"optimizer": {"kind": "prodigy"}}, "optimizer.kind adamw"),
        ({"optimizer": {"weights": "bf16"}}, "optimizer.weights fp32"),
    ],
    ids=["norm", "accumulation", "prodigy", "bf16"],
)
def test_what_cannot_go_one_by_one_is_refused_or_left(job_values, changes, said):
    asked = parse_job(merge(merge(job_values, FUSED), changes))
    with pytest.raises(JobError, match=f"memory.fused_backward.*{said}"):
        make_plan(asked)
    auto = {"memory": {"fused_backward": "auto", "budget_gb": 0.001}}
    assert not make_plan(
        parse_job(merge(merge(merge(job_values, FUSED), changes), auto))
    ).memory.fused


def test_auto_uses_it_where_it_makes_a_run_fit(sdxl_unet, sdxl_config):
    from training.memory import needs_of

    job = parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "adapter": {"rank": 128, "targets": "all"},
        }
    )
    shapes = {n: tuple(p.shape) for n, p in sdxl_unet.named_parameters()}
    models, device = {"unet": sdxl_unet}, torch.device("cuda")
    needs = needs_of(job, models, sdxl_config, shapes, (1024, 1024), "bf16", device)
    most = needs.plan([], None)
    assert most.gradients > 1.3 * GIB
    # with nothing computed twice gradients only come where activations go: nothing is gained
    assert most.total - needs.plan([], None, fused=True).total < 0.2 * GIB
    assert choose(needs, "auto", most.total, "auto") == choose(needs, "auto", most.total, "off")
    least, fused = (choose(needs, "on", None, f).total for f in ("off", "on"))
    assert least - fused > 0.8 * GIB
    between = (least + fused) // 2
    assert not choose(needs, "auto", between, "off").fits
    plan = choose(needs, "auto", between, "auto")
    assert plan.fused and plan.fits


def test_a_run_in_two_parts_ends_with_the_file_of_an_ordinary_one(train, tmp_path):
    from safetensors.torch import load_file

    common = {"schedule": {"steps": 4}, "saving": {"precision": "fp32", "every_steps": 1}}
    common["optimizer"] = {"kind": "lion", "ema_decay": 0.5}
    runs = tmp_path / "parts"
    parts = merge(merge(FUSED, common), {"folders": {"runs": str(runs)}})
    expected, _ = train(merge(PLAIN, common))
    stopped, _ = train(parts, should_stop=lambda: len(list(runs.glob("*/states/*"))) >= 2)
    assert stopped.lora is None
    outcome, events = train(parts)
    plan = next(e for e in events if e["event"] == "plan")
    assert 0 < plan["resumed_from"] < 4 and plan["memory"]["fused_backward"]
    assert equal(load_file(expected.lora), load_file(outcome.lora))
