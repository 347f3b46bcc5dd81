"""Kinds of adapters: how they start, what they compute, and that a run of each resumes exactly."""

import copy

import pytest
import torch

from training import JobError, parse_job
from training.adapter import add_adapter
from training.export import adapter_layers
from training.kinds import FROZEN, KINDS
from training.parts import change
from training.state import State, capture, restore

from .test_adapter import small_unet, unet_inputs

ADDITIVE = ("lora", "rslora", "loha", "lokr", "pissa")


def make_job(**adapter):
    base = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
    return parse_job(base | {"adapter": adapter, "seed": 3})


def disturb(adapter, size=0.05):
    """Random numbers in place of training."""
    with torch.no_grad():
        for i, plan in enumerate(adapter.plans):
            random = torch.Generator().manual_seed(i)
            for name, tensor in adapter.kind.tensors(adapter.layer(plan)).items():
                if name not in FROZEN:
                    tensor += size * torch.randn(tensor.shape, generator=random)


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_the_model_as_it_is(tiny_unet_config, kind):
    unet = small_unet(tiny_unet_config)
    with torch.no_grad():
        plain = unet(**unet_inputs()).sample
        adapter = add_adapter(unet, make_job(kind=kind, rank=4, targets="all"))
        assert torch.equal(unet(**unet_inputs()).sample, plain)
        first = {k: v.clone() for k, v in adapter.state().items()}
        disturb(adapter)
        assert (unet(**unet_inputs()).sample - plain).abs().max() > 1e-3
        adapter.load_state(first)
        assert torch.equal(unet(**unet_inputs()).sample, plain)
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    again = add_adapter(small_unet(tiny_unet_config), make_job(kind=kind, rank=4, targets="all"))
    assert all(torch.equal(v, first[k]) for k, v in again.state().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_s_change_of_weights_is_what_is_computed(tiny_unet_config, kind):
    """`change`, which merging and baking rest on, against the running model."""
    job = make_job(kind=kind, rank=3, alpha=None if kind == "oft" else 2.0, targets="all")
    unet, merged = small_unet(tiny_unet_config), small_unet(tiny_unet_config)
    adapter = add_adapter(unet, job)
    disturb(adapter)
    with torch.no_grad():
        for name, parts in adapter_layers(adapter.state(), job.adapter).items():
            weight = merged.get_submodule(name).weight
            weight += change(parts, weight.clone())
        expected, got = merged(**unet_inputs()).sample, unet(**unet_inputs()).sample
    assert (expected - got).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_model_keeps_float32_masters(tiny_unet_config, kind):
    unet = small_unet(tiny_unet_config, dtype=torch.bfloat16)
    adapter = add_adapter(unet, make_job(kind=kind, rank=4, targets="all"))
    out = unet(**unet_inputs(torch.bfloat16)).sample
    out.float().square().mean().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    moved = [p.grad.dtype for p in adapter.parameters() if p.grad is not None]
    assert moved and set(moved) == {torch.float32}


def peft_layer(base, **config):
    from peft import LoraConfig, inject_adapter_in_model

    model = torch.nn.Sequential(copy.deepcopy(base))
    inject_adapter_in_model(LoraConfig(target_modules=["0"], **config), model, "default")
    return model


def test_pissa_s_start_is_peft_s(tiny_unet_config):
    unet = small_unet(tiny_unet_config)
    name = "mid_block.attentions.0.proj_in"
    base = unet.get_submodule(name)
    oracle = peft_layer(base, r=4, lora_alpha=2.0, init_lora_weights="pissa")[0]
    adapter = add_adapter(unet, make_job(kind="pissa", rank=4, alpha=2.0, layers=[name]))
    state = adapter.state()
    ours = state[f"{name}.up0"] @ state[f"{name}.down0"]
    theirs = oracle.lora_B["default"].weight @ oracle.lora_A["default"].weight
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    residual = base.weight - ours * 2.0 / 4
    torch.testing.assert_close(residual, oracle.base_layer.weight, atol=1e-5, rtol=1e-4)


def test_pissa_s_gradients_are_those_of_the_frozen_residual(tiny_unet_config):
    """W x + s (B A - B0 A0) x learns as PEFT's (W - s B0 A0) x + s B A x does."""
    unet = small_unet(tiny_unet_config)
    name = "mid_block.attentions.0.proj_in"
    base = copy.deepcopy(unet.get_submodule(name))
    oracle = peft_layer(base, r=4, lora_alpha=4.0, init_lora_weights="pissa")
    adapter = add_adapter(unet, make_job(kind="pissa", rank=4, layers=[name]))
    layer = adapter.layer(adapter.plans[0])
    (_, pair) = next(adapter.pairs())
    with torch.no_grad():  # singular vectors are unique up to their sign only
        for mine, theirs in ((pair.down, oracle[0].lora_A), (pair.up, oracle[0].lora_B)):
            theirs["default"].weight.copy_(mine)
    x = torch.randn(5, base.in_features, generator=torch.Generator().manual_seed(0))
    for model in (layer, oracle):
        model(x).square().sum().backward()
    for mine, theirs in ((pair.down, oracle[0].lora_A), (pair.up, oracle[0].lora_B)):
        torch.testing.assert_close(mine.grad, theirs["default"].weight.grad, atol=1e-3, rtol=1e-4)


def test_rslora_is_peft_s(tiny_unet_config):
    unet = small_unet(tiny_unet_config)
    name = "mid_block.attentions.0.proj_in"
    oracle = peft_layer(unet.get_submodule(name), r=5, lora_alpha=3.0, use_rslora=True)
    adapter = add_adapter(unet, make_job(kind="rslora", rank=5, alpha=3.0, layers=[name]))
    disturb(adapter)
    (_, pair) = next(adapter.pairs())
    x = torch.randn(5, 64)
    with torch.no_grad():
        oracle[0].lora_A["default"].weight.copy_(pair.down)
        oracle[0].lora_B["default"].weight.copy_(pair.up)
        torch.testing.assert_close(adapter.layer(adapter.plans[0])(x), oracle(x))


@pytest.mark.parametrize("name", ["mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"])
def test_dora_is_the_paper_s_formula(tiny_unet_config, name):
    """W' = m (W + BA) / |W + BA| with lengths of columns; the length gets no gradient."""
    unet = small_unet(tiny_unet_config)
    base = copy.deepcopy(unet.get_submodule(name))
    adapter = add_adapter(unet, make_job(kind="dora", rank=4, layers=[name]))
    disturb(adapter)
    layer = adapter.layer(adapter.plans[0])
    shape = (2, 64, 6, 6) if "conv" in name else (2, 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = layer(x)
    got.square().sum().backward()
    tensors = adapter.kind.tensors(layer)
    down, up, length = (t.detach().clone().requires_grad_() for t in tensors.values())
    moved = base.weight + (up.flatten(1) @ down.flatten(1)).view(base.weight.shape)
    norm = moved.detach().transpose(0, 1).flatten(1).norm(dim=1)
    view = (1, -1, *[1] * (moved.ndim - 2))
    with torch.no_grad():
        assert (norm.view(-1) > 0).all()
    weight = moved * (length / norm).view(view)
    if "conv" in name:
        expected = torch.nn.functional.conv2d(x, weight, base.bias, base.stride, base.padding)
    else:
        expected = torch.nn.functional.linear(x, weight, base.bias)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    expected.square().sum().backward()
    for mine, oracle in zip(tensors.values(), (down, up, length), strict=True):
        torch.testing.assert_close(mine.grad, oracle.grad, atol=1e-3, rtol=1e-3)


def test_oft_only_turns(tiny_unet_config):
    """Lengths and angles between a block's output channels stay (arXiv 2306.07280)."""
    unet = small_unet(tiny_unet_config)
    name = "mid_block.attentions.0.proj_in"
    weight = unet.get_submodule(name).weight.clone()
    job = make_job(kind="oft", rank=8, layers=[name])
    adapter = add_adapter(unet, job)
    disturb(adapter, 0.3)
    parts = adapter_layers(adapter.state(), job.adapter)[name]
    turned = weight + change(parts, weight)
    gram = [
        w.view(-1, 8, w.shape[1]).transpose(1, 2) @ w.view(-1, 8, w.shape[1])
        for w in (weight, turned)
    ]
    torch.testing.assert_close(gram[0], gram[1], atol=1e-5, rtol=1e-4)
    assert (turned - weight).abs().max() > 0.05


DROPOUTS = [(kind, name) for kind in KINDS for name in KINDS[kind].dropouts]


@pytest.mark.parametrize(("kind", "name"), DROPOUTS)
def test_dropouts_work_in_training_only(tiny_unet_config, kind, name):
    unet = small_unet(tiny_unet_config)
    adapter = add_adapter(unet, make_job(kind=kind, rank=4, **{name: 0.5}))
    disturb(adapter, 0.3)
    layer = adapter.layer(adapter.plans[0])
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))[:, None]
    with torch.no_grad():
        layer.eval()
        plain = layer(x)
        assert torch.equal(layer(x), plain)
        layer.train()
        torch.manual_seed(0)
        outputs = [layer(x) for _ in range(8)]
        torch.manual_seed(0)
        assert all(torch.equal(layer(x), out) for out in outputs)
    assert any(not torch.equal(out, plain) for out in outputs)
    adapter.enable(False)
    base = layer.get_base_layer()(x)
    if name == "module_dropout" and kind != "oft":
        assert any(torch.equal(out, base) for out in outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_bit_identical(make_loop, kind):
    drops = dict.fromkeys(KINDS[kind].dropouts, 0.2)
    changes = {"adapter": {"kind": kind, "alpha": None, "targets": "all", **drops}}
    _, adapter, _, loop = make_loop(changes)
    adapter.train()
    loop.step(0)
    saved = capture(State(), adapter, loop.updater)
    saved = copy.deepcopy(saved)
    loop.step(1)
    _, other, _, again = make_loop(changes)
    other.train()
    restore(saved, other, again.updater)
    again.step(1)
    first, second = adapter.state(), other.state()
    assert set(first) == set(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], saved.adapter[k]) for k in first)


def test_dropouts_a_kind_does_not_have_are_refused():
    for adapter, message in (
        ({"kind": "oft", "dropout": 0.1}, "dropout does not exist for oft"),
        ({"kind": "dora", "module_dropout": 0.1}, "module_dropout does not exist for dora"),
        ({"kind": "oft", "alpha": 4.0}, "alpha does not exist for oft"),
        ({"kind": "lokr", "factor": 0}, "factor"),
        ({"kind": "glora"}, "adapter.kind"),
    ):
        with pytest.raises(JobError, match=message):
            make_job(**adapter)
