"""Learning-rate curves against transformers and the papers."""

import pytest
import torch

from training import merge, parse_job
from training.schedules import SCHEDULES, rate_factor

LEAST = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}


def schedule(**values):
    return parse_job(merge(LEAST, {"schedule": values})).schedule


def torch_factors(make, steps: int = 50) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def test_curves_are_those_of_transformers():
    from transformers import optimization as theirs

    steps = 50
    expected = {
        "constant": lambda o: theirs.get_constant_schedule(o),
        "linear": lambda o: theirs.get_linear_schedule_with_warmup(o, 0, steps),
        "cosine": lambda o: theirs.get_cosine_with_hard_restarts_schedule_with_warmup(
            o, 0, steps, num_cycles=3
        ),
        "polynomial": lambda o: theirs.get_polynomial_decay_schedule_with_warmup(
            o, 0, steps, lr_end=0.1, power=3.0
        ),
        "wsd": lambda o: theirs.get_wsd_schedule(
            o,
            num_warmup_steps=0,
            num_decay_steps=15,
            num_stable_steps=35,
            decay_type="1-sqrt",
            min_lr_ratio=0.1,
        ),
    }
    for kind, make in expected.items():
        floor = 0.1 if kind in ("polynomial", "wsd") else 0.0
        settings = schedule(steps=steps, kind=kind, cycles=3, decay=0.3, power=3.0, floor=floor)
        ours = [rate_factor(i, settings) for i in range(steps)]
        assert ours == pytest.approx(torch_factors(make), abs=1e-6), kind


def test_rex_has_the_paper_s_shape():
    settings = schedule(steps=100, kind="rex")
    factors = [rate_factor(i, settings) for i in range(100)]
    assert factors[0] == 1.0 and factors[50] == pytest.approx(0.5 / 0.75)
    falls = [a - b for a, b in zip(factors, factors[1:], strict=False)]
    assert falls == sorted(falls) and factors[-1] < 0.02


@pytest.mark.parametrize("kind", SCHEDULES)
def test_curves_start_full_and_end_at_their_floor(kind):
    settings = schedule(steps=1000, kind=kind, warmup=0.1, floor=0.25)
    factors = [rate_factor(i, settings) for i in range(1000)]
    assert all(0 < f <= 1 for f in factors) and factors[100] == 1.0
    assert factors[:100] == sorted(factors[:100])
    end = 1.0 if kind == "constant" else 0.25
    assert factors[-1] == pytest.approx(end, abs=0.04)
