"""Optimizers against their libraries, and what is refused."""

import sys

import pytest
import torch

from tests.unit.training.tiny_weights import RESUMED, close, job, pull, weights
from training import JobError, merge, parse_job
from training.optimize import check_optimizer, label, make_optimizer
from training.optimizers import AdamWScheduleFree, Lion, Prodigy

# ------------------------------------------------------------------------------ against libraries


def run_both(ours, theirs, steps: int = 25, rates=lambda n: None) -> tuple[list, list]:
    """(weights of ours, of theirs) after the same gradients."""
    one, two = weights(), weights()
    first, second = ours(one), theirs(two)
    for optimizer in (first, second):
        if hasattr(optimizer, "train"):
            optimizer.train()
    for number in range(steps):
        for parameters, optimizer in ((one, first), (two, second)):
            pull(parameters, number)
            for group in optimizer.param_groups:
                group["lr"] = rates(number) or group["lr"]
            optimizer.step()
    return (one, first), (two, second)


def test_lion_is_pytorch_optimizers():
    from pytorch_optimizer import Lion as Theirs

    (one, _), (two, _) = run_both(
        lambda p: Lion(p, lr=0.01, weight_decay=0.1),
        lambda p: Theirs(p, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99)),
    )
    close(one, two)


def test_schedule_free_is_the_authors():
    from schedulefree import AdamWScheduleFree as Theirs

    (one, first), (two, second) = run_both(
        lambda p: AdamWScheduleFree(p, lr=0.01, weight_decay=0.1),
        lambda p: Theirs(p, lr=0.01, weight_decay=0.1),
        rates=lambda n: 0.01 * min(1.0, (n + 1) / 5),
    )
    close(one, two)
    first.eval(), second.eval()
    close(one, two)
    assert not torch.allclose(one[0], first.state[one[0]]["z"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.1},
        {"d_coef": 0.5, "growth_rate": 1.3, "d0": 1e-3},
    ],
)
def test_prodigy_is_the_authors(options, capsys):
    from prodigyopt import Prodigy as Theirs

    (one, first), (two, second) = run_both(
        lambda p: Prodigy(p, **options), lambda p: Theirs(p, **options), steps=60
    )
    found, expected = first.param_groups[0]["d"], second.param_groups[0]["d"]
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(found) > 10 * options.get("d0", 1e-6)  # it has found something
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_prodigy_without_gradients_stays():
    parameters = weights()
    optimizer = Prodigy(parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert float(optimizer.param_groups[0]["d"]) == 1e-6
    close(parameters, weights())


def test_the_named_ones_are_what_they_say():
    for settings, expected in (
        ({"kind": "adamw"}, torch.optim.AdamW),
        ({"kind": "other", "name": "torch.optim:Adamax"}, torch.optim.Adamax),
        ({"kind": "lion"}, Lion),
    ):
        made = make_optimizer(weights(), job(**settings).optimizer)
        assert type(made) is expected
    made = make_optimizer(weights(), job(kind="adafactor", weight_decay=0.5).optimizer)
    assert made.param_groups[0]["scale_parameter"] is False
    assert made.param_groups[0]["weight_decay"] == 0.5
    options = {"nesterov": True, "momentum": 0.5}
    named = job(kind="other", name="torch.optim:SGD", options=options).optimizer
    group = make_optimizer(weights(), named).param_groups[0]
    assert group["nesterov"] and group["momentum"] == 0.5 and group["weight_decay"] == 0.01
    assert label(named) == "torch.optim.SGD"
    assert label(job().optimizer) == "torch.optim.adamw.AdamW"


# --------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "other"}, "optimizer.name"),
        ({"kind": "adamw", "name": "torch.optim:SGD"}, "kind other"),
        ({"kind": "other", "name": "os:system"}, "library of torch.optim"),
        ({"kind": "other", "name": "torch.optim.sgd:SGD"}, "library of"),
        ({"kind": "other", "name": "torch.optim:__import__"}, "library:Name"),
        ({"kind": "other", "name": "SGD"}, "library:Name"),
        ({"options": {"a b": 1}}, "optimizer.options"),
        ({"options": {"hook": {"deep": 1}}}, "optimizer.options"),
        ({"kind": "schedule_free", "ema_decay": 0.9}, "ema_decay to 0"),
    ],
)
def test_impossible_choices_are_refused(settings, message):
    with pytest.raises(JobError, match=message):
        job(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "other", "name": "torch.optim:Nothing"}, "no optimizer 'Nothing'"),
        ({"kind": "other", "name": "torch.optim:lr_scheduler"}, "no optimizer 'lr_scheduler'"),
        ({"kind": "other", "name": "transformers:pipeline"}, "no optimizer 'pipeline'"),
        ({"options": {"betaz": 1}}, "AdamW refuses its options.*betaz"),
        ({"kind": "other", "name": "torch.optim:SGD", "options": {"nesterov": True}}, "Nesterov"),
        ({"kind": "schedule_free", "beta1": 0.0}, "beta1 above 0"),
    ],
)
def test_what_a_library_refuses_is_said(settings, message):
    with pytest.raises(JobError, match=message):
        make_optimizer(weights(), job(**settings).optimizer)


@pytest.mark.parametrize("name", ["torch.optim:LBFGS", "torch.optim:SparseAdam"])
def test_what_cannot_train_is_refused_before_anything_is_done(name, job_values):
    from training.plan import make_plan

    values = merge(job_values, {"optimizer": {"kind": "other", "name": name}})
    with pytest.raises(JobError, match=f"{name} cannot train here"):
        make_plan(parse_job(values))
    with pytest.raises(JobError, match="no optimizer 'Nothing'"):
        named = {"optimizer": {"kind": "other", "name": "torch.optim:Nothing"}}
        make_plan(parse_job(merge(job_values, named)))


def test_every_optimizer_that_is_offered_passes_the_check():
    for settings in RESUMED:
        check_optimizer(job(**settings).optimizer)


def test_missing_packages_are_named(monkeypatch):
    for module in ("bitsandbytes", "bitsandbytes.optim", "torchao", "torchao.optim"):
        monkeypatch.setitem(sys.modules, module, None)  # as if not installed
    with pytest.raises(JobError, match="pip install bitsandbytes or torchao"):
        make_optimizer(weights(), job(kind="adamw_8bit").optimizer)
    with pytest.raises(JobError, match="pip install bitsandbytes, in"):
        make_optimizer(weights(), job(kind="other", name="bitsandbytes.optim:Lion8bit").optimizer)
