"""The memory plan: its count against what autograd saves, full SDXL by shapes, plans that fit."""

import json

import pytest
import torch

from training import JobError, parse_job
from training.adapter_size import all_units, measure_adapter
from training.checkpoint import empty_models
from training.follower import assemble
from training.memory import GIB, apply_plan, choose, needs_of
from training.presets import CARDS_GB
from training.quantize import RoundedLinear, round_weights
from training.settings import merge
from training.state import State


def kept_bytes(loop, adapter, number: int = 0) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in adapter.unet.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # holding it keeps the address from being reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = loop._loss(loop._sampler.batch(number), number)
    del loss
    return sum(s.nbytes() for s in kept.values())


BIG = {"buckets": {"resolution": 128, "upscale": True, "step": 64}, "adapter": {"rank": 4}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": {"targets": "attention"}},
        {"adapter": {"rank": 32}},
        {"adapter": {"targets": "all"}},
        {"adapter": {"layers": ["up_blocks.0.attentions.0"], "block_ranks": {"attn2": 16}}},
        {"adapter": {"kind": "dora"}},
        {"adapter": {"kind": "loha"}},
        {"adapter": {"kind": "lokr", "targets": "all"}},
        {"adapter": {"kind": "oft", "alpha": None}},
        {"text_encoders": {"learning_rate_1": 1e-3, "learning_rate_2": 1e-3}},
        {"memory": {"gradient_checkpointing": "on"}},
        {"memory": {"gradient_checkpointing": "selective"}},
    ],
    ids="plain attention rank all one-block dora loha lokr oft texts twice selective".split(),
)
def test_the_count_is_what_autograd_keeps(make_loop, changes):
    plan, adapter, _, loop = make_loop(merge(BIG, changes))
    adapter.unet.train()
    apply_plan(adapter.unet, plan.memory)
    areas = [p.bucket_size[0] * p.bucket_size[1] for p in plan.placements]
    batches = ((n, plan.sampler.batch(n)) for n in range(99))
    full = {max(areas): plan.job.batch.size}  # the prediction is for the largest full batch
    number = next(n for n, b in batches if {areas[b[0]]: len(b)} == full)
    measured = kept_bytes(loop, adapter, number)
    peak = 0
    if plan.memory.twice:  # what exists again while one block is computed anew is not kept
        config = plan.checkpoint.unet_config
        size = plan.placements[areas.index(max(areas))].bucket_size
        models = empty_models(plan.checkpoint)
        loads = measure_adapter(models, plan.job, torch.float32).loads
        walk = all_units(models, config, size, plan.job.batch.size, loads)
        peak = max(u.peak for u in walk if u.name in plan.memory.twice) * 4
    predicted = plan.memory.activations - peak
    assert 0.9 < predicted / measured < 1.12, (predicted, measured)


def full_sdxl(sdxl_unet, sdxl_config, **memory):
    shapes = {n: tuple(p.shape) for n, p in sdxl_unet.named_parameters()}
    job = parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "batch": {"size": memory.pop("batch", 1)},
            "memory": memory,
        }
    )
    size = (1024, 1024)
    config = sdxl_config
    return needs_of(job, {"unet": sdxl_unet}, config, shapes, size, "bf16", torch.device("cuda"))


def test_full_sdxl_fits_the_cards_people_have(sdxl_unet, sdxl_config):
    needs = full_sdxl(sdxl_unet, sdxl_config)
    most, least = choose(needs, "off", None), choose(needs, "on", None)
    assert most.weights == pytest.approx(5.13e9, rel=0.01)  # 2.567 billion in bf16
    assert most.adapter == 3 * most.gradients  # fp32 weights, and AdamW's two means
    assert most.gradients == pytest.approx(42.6e6 * 4, rel=0.01)  # rank 16
    assert 5 * GIB < most.activations < 9 * GIB
    assert least.activations < most.activations / 5
    plans = {gb: choose(needs, "auto", round(gb * 0.94 * GIB)) for gb in CARDS_GB}
    assert all(plan.fits for plan in plans.values()), plans
    assert plans[24].twice == () and plans[24].extra == 0
    extra = [plans[gb].extra for gb in CARDS_GB]
    assert extra == sorted(extra, reverse=True) and extra[0] > extra[1] > 0
    rounded = full_sdxl(sdxl_unet, sdxl_config, base_weights="int8")
    assert choose(rounded, "on", None).total < 0.7 * least.total
    tight = choose(full_sdxl(sdxl_unet, sdxl_config, batch=4), "auto", round(5 * GIB))
    assert not tight.fits and len(tight.twice) == len(
        [u for u in needs.units if u.saving > 0]
    )  # the smallest there is


def test_computing_twice_changes_no_bit(train, tmp_path):
    from safetensors.torch import load_file

    more = {"schedule": {"steps": 2}, "saving": {"precision": "fp32"}}
    loras = []
    for budget in (0, 0.001):  # GB: everything has to be computed twice
        changes = merge(more, {"memory": {"budget_gb": budget}, "name": f"b{budget}"})
        folders = {"folders": {"runs": str(tmp_path / f"runs-{budget}")}}
        outcome, events = train(merge(changes, folders))
        plan = next(e for e in events if e["event"] == "plan")
        assert bool(plan["memory"]["computed_twice"]) is bool(budget)
        warned = [e["message"] for e in events if e["event"] == "warning"]
        assert any("are free" in w for w in warned) is bool(budget)
        loras.append(load_file(outcome.lora))
    assert all(torch.equal(t, loras[1][n]) for n, t in loras[0].items())


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rounded_weights_train_nearly_the_same(make_loop, kind):
    exact = make_loop({})[3].step(0)
    plan, _, data, _ = make_loop({"memory": {"base_weights": kind}})
    adapter, loop = assemble(plan, data, State())
    rounded = [m for m in adapter.unet.modules() if isinstance(m, RoundedLinear)]
    assert rounded and all(m.weight.element_size() == 1 for m in rounded)
    adapter.unet.train()
    step = loop.step(0)
    assert step.loss == pytest.approx(exact.loss, rel=0.02) and step.loss != exact.loss
    assert step.grad_norm == pytest.approx(exact.grad_norm, rel=0.1)


def test_rounded_layers_give_the_gradient_of_their_own_weights():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(24, 16))
    plain = torch.nn.Linear(24, 16)
    assert round_weights(layer, "int8") == 1
    plain.load_state_dict({"weight": layer[0].weight * layer[0].scale, "bias": layer[0].bias})
    x, y = (torch.randn(5, 24, requires_grad=True) for _ in range(2))
    y.data.copy_(x.data)
    layer(x).square().sum().backward()
    plain(y).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    with pytest.raises(JobError, match="choose full, int8, fp8"):
        round_weights(layer, "int3")


def test_kinds_that_need_the_weights_refuse_rounded_ones(make_loop):
    with pytest.raises(JobError, match="dora needs the model's own weights"):
        make_loop({"memory": {"base_weights": "int8"}, "adapter": {"kind": "dora"}})


def test_the_plan_command_prints_what_a_job_needs(job_values, tmp_path, capfd):
    from training.cli import main

    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_values), "utf-8")
    large = ["batch.size=256", "buckets.resolution=512", "buckets.upscale=true"]
    assert main(["plan", str(path), "memory.budget_gb=8", *large]) == 0
    said = capfd.readouterr().out
    tight = said.index("with   8 GB")
    assert "parts computed twice" in said[tight:] and "base_weights int8: " in said[tight:]
    assert "needs about" in said and "8.0 GB" in said
    assert "5 pictures" in said
