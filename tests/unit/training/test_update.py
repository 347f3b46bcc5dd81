"""Moving weights: to the bit after a stop, rounded by chance, averaged, clipped, at their rates."""

import math

import pytest
import torch

from tests.unit.training.tiny_weights import LEAST, RESUMED, close, groups, job, pull, take, weights
from training import merge, parse_job
from training.errors import StateError
from training.optimize import OPTIMIZERS
from training.update import Updater, stochastic_round


@pytest.mark.parametrize("settings", RESUMED, ids=lambda s: "-".join(map(str, s.values())))
def test_every_optimizer_goes_on_to_the_bit(settings, tmp_path):
    from training.state import State, States

    chosen = job(**settings)
    whole = Updater(groups(weights()), chosen)
    take(whole, 0, 9)
    first = Updater(groups(weights()), chosen)
    take(first, 0, 4)
    with first.averaged():  # looking does not change anything
        pass
    adapter = {str(i): p.detach() for i, p in enumerate(first.parameters)}
    states = States(tmp_path, "digest", keep=1)
    states.save(State(step=4, adapter=adapter, update=first.state()))
    found = states.newest(pytest.fail)
    second = Updater(groups(weights(seed=5)), chosen)
    with torch.no_grad():
        for i, p in enumerate(second.parameters):
            p.copy_(found.adapter[str(i)])
    second.load(found.update)
    take(second, 4, 9)
    for a, b, start in zip(whole.parameters, second.parameters, weights(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, start.to(a.dtype))
    with whole.averaged(), second.averaged():
        for a, b in zip(whole.parameters, second.parameters, strict=True):
            assert torch.equal(a, b)
    assert len({tuple(p.shape) for p in whole.parameters}) == 3


def test_everything_an_updater_keeps_can_be_moved():
    updater = Updater(groups(weights()), job(kind="prodigy", ema_decay=0.5))
    take(updater, 0, 2)
    found = list(updater.slots())
    kept = 3 * 4 + 3 + 3  # four tensors per weight, three numbers of Prodigy, three means
    assert len(found) == kept and all(container[key] is t for container, key, t in found)
    for container, key, tensor in found:
        container[key] = tensor.clone()
    other = Updater(groups(weights()), job(kind="prodigy", ema_decay=0.5))
    take(other, 0, 2)
    for one in (updater, other):
        take(one, 2, 4)
    with updater.averaged(), other.averaged():
        assert all(map(torch.equal, updater.parameters, other.parameters))


def test_another_optimizer_does_not_take_the_state():
    state = Updater(groups(weights()), job()).state()
    with pytest.raises(StateError, match="optimizer.*AdamW"):
        Updater(groups(weights()), job(kind="lion")).load(state)


def test_tensors_made_of_tensors_are_only_rebuilt_for_known_libraries():
    from training.optimizer_state import load_memory

    made = {"class": "os:system", "parts": [], "context": [], "shape": [1], "stride": [1]}
    with pytest.raises(StateError, match="os:system"):
        load_memory({"x#kind": made}, torch.device("cpu"), {})


# ------------------------------------------------------------------------- averages and rounding


def test_the_running_mean_is_diffusers():
    from diffusers.training_utils import EMAModel

    updater = Updater(groups(weights()), job(ema_decay=0.6))
    oracle = EMAModel(updater.parameters, decay=0.6)
    for number in range(8):
        take(updater, number, number + 1)
        oracle.step(updater.parameters)
    trained = [p.detach().clone() for p in updater.parameters]
    with updater.averaged():
        close(updater.parameters, oracle.shadow_params)
        assert not torch.equal(updater.parameters[0], trained[0])
    for p, value in zip(updater.parameters, trained, strict=True):
        assert torch.equal(p, value)


def test_schedule_free_shows_its_average_and_goes_on():
    from schedulefree import AdamWScheduleFree as Theirs

    chosen = job(kind="schedule_free", learning_rate=0.01, weight_decay=0.0, max_grad_norm=0)
    updater = Updater(groups(weights()), chosen)
    parameters = weights()
    oracle = Theirs(parameters, lr=0.01)
    oracle.train()
    for number in range(6):
        take(updater, number, number + 1)
        pull(parameters, number)
        oracle.step()
        before = [p.detach().clone() for p in updater.parameters]
        with updater.averaged():
            oracle.eval()
            close(updater.parameters, parameters)
            oracle.train()
        assert all(map(torch.equal, before, updater.parameters))


def test_chance_rounds_to_neighbours_and_keeps_the_mean():
    value = 1.0 + 2.0**-7 * 0.3  # three tenths of the way to bfloat16's next number
    values = torch.full((40_000,), value)
    rounded = stochastic_round(values, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.tolist()) == {1.0, 1.0 + 2.0**-7}
    assert float(rounded.double().mean()) == pytest.approx(value, abs=2.0**-7 * 0.01)
    exact = torch.tensor([0.0, -2.5, 3.0, math.inf, -math.inf])
    assert torch.equal(stochastic_round(exact, torch.Generator()).float(), exact)
    negative = stochastic_round(-values, torch.Generator().manual_seed(0))
    assert torch.equal(negative, -rounded)
    assert stochastic_round(torch.tensor([math.nan]), torch.Generator()).isnan().all()


def test_small_steps_are_not_lost_in_bf16():
    """One percent of bfloat16's spacing per step: rounding to the nearest would never move."""
    moved = []
    for kind in ("bf16", "fp32"):
        p = torch.nn.Parameter(torch.ones(4000))
        chosen = job(
            kind="other",
            name="torch.optim:SGD",
            weights=kind,
            learning_rate=1.0,
            weight_decay=0.0,
            max_grad_norm=0,
        )
        chosen = chosen.model_copy(
            update={
                "schedule": parse_job(
                    merge(LEAST, {"schedule": {"steps": 100, "kind": "constant"}})
                ).schedule
            }
        )
        updater = Updater([{"params": [p], "factor": 1.0}], chosen)
        for number in range(100):
            p.grad = torch.full_like(p, -(2.0**-7) / 100)
            updater.clip()
            updater.step(number)
            updater.zero_grad()
        assert p.dtype == (torch.bfloat16 if kind == "bf16" else torch.float32)
        moved.append(float(p.detach().double().mean()) - 1.0)
    assert moved[1] == pytest.approx(2.0**-7, rel=1e-3)
    assert moved[0] == pytest.approx(2.0**-7, rel=0.05)


def test_gradients_are_cut_and_shortened():
    updater = Updater(groups(weights()), job(max_grad_value=0.5, max_grad_norm=1.0))
    for p in updater.parameters:
        p.grad = torch.full_like(p, -3.0)
    count = sum(p.numel() for p in updater.parameters)
    assert float(updater.clip()) == pytest.approx(3.0 * math.sqrt(count), rel=1e-5)
    expected = -0.5 / (0.5 * math.sqrt(count))
    for p in updater.parameters:
        torch.testing.assert_close(p.grad, torch.full_like(p, expected), atol=1e-5, rtol=1e-4)


def test_an_optimizer_that_finds_its_rate_gets_no_other():
    updater = Updater(groups(weights()), job(kind="prodigy", learning_rate=1e-5))
    assert updater.rate(0) == 1.0
    take(updater, 0, 5)
    like = torch.zeros(())
    assert 0 < float(updater.found_rate(like)) < 1
    free = Updater(groups(weights()), job(kind="schedule_free", learning_rate=0.5))
    assert [free.rate(i) for i in (0, 5, 9)] == [0.5] * 3  # no falling curve
    assert set(OPTIMIZERS) >= {"adamw", "adamw_8bit", "lion", "adafactor", "prodigy"}


def test_up_matrices_may_learn_faster(make_loop):
    """LoRA+: with plain gradient descent the ups move sixteen times as far, the downs as before."""
    moved = []
    for factor in (1.0, 16.0):
        named = {"kind": "other", "name": "torch.optim:SGD", "weight_decay": 0.0}
        _, adapter, _, loop = make_loop({"optimizer": {**named, "up_factor": factor}})
        with torch.no_grad():
            for i, (_, pair) in enumerate(adapter.pairs()):
                pair.up.normal_(std=0.02, generator=torch.Generator().manual_seed(i))
        before = {k: v.clone() for k, v in adapter.state().items()}
        loop.step(0)
        moved.append({k: v - before[k] for k, v in adapter.state().items()})
    for key, plain in moved[0].items():
        expected = plain * (16.0 if key.endswith(".up") else 1.0)
        torch.testing.assert_close(moved[1][key], expected, atol=1e-7, rtol=2e-2)
    assert any(v.abs().max() > 1e-6 for v in moved[0].values())


def test_groups_keep_their_own_rates():
    parameters = weights()
    split = [{"params": parameters[:1], "factor": 1.0}, {"params": parameters[1:], "factor": 0.0}]
    for settings in (
        {"kind": "adamw"},
        {"kind": "prodigy", "options": {"d0": 0.01}},
        {"kind": "adamw", "weights": "bf16"},
    ):
        updater = Updater([dict(g) for g in split], job(**settings, weight_decay=0.0))
        before = [p.detach().clone() for p in updater.parameters]
        take(updater, 0, 3)
        assert not torch.equal(before[0], updater.parameters[0])
        assert torch.equal(before[1], updater.parameters[1])
