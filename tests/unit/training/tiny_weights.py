"""A few weights that are pulled about, for tests of what moves weights."""

import torch

from training import merge, parse_job
from training.update import Updater

LEAST = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
RESUMED = [  # settings of every optimizer that is here
    {"kind": "adamw"},
    {"kind": "lion"},
    {"kind": "adafactor"},
    {"kind": "prodigy", "options": {"d0": 0.01}},
    {"kind": "schedule_free", "learning_rate": 0.01},
    {"kind": "other", "name": "torch.optim:RMSprop", "options": {"momentum": 0.9}},
    {"kind": "other", "name": "torch.optim:SGD"},
    {"kind": "other", "name": "pytorch_optimizer:CAME", "options": {"betas": [0.8, 0.9, 0.9]}},
    {"kind": "other", "name": "pytorch_optimizer:AdEMAMix"},
    {"kind": "other", "name": "prodigyopt:Prodigy", "options": {"d0": 0.01}},
    {"kind": "other", "name": "schedulefree:RAdamScheduleFree"},
    {"kind": "adamw", "ema_decay": 0.9},
    {"kind": "adamw", "weights": "bf16"},
    {"kind": "schedule_free", "weights": "bf16", "max_grad_value": 0.1, "learning_rate": 0.05},
    {"kind": "prodigy", "weights": "bf16", "ema_decay": 0.5, "options": {"d0": 0.1}},
]


def job(**optimizer):
    return parse_job(merge(LEAST, {"optimizer": optimizer, "schedule": {"steps": 10}}))


def weights(seed: int = 0) -> list[torch.nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    shapes = [(4, 6), (3, 4), (5,)]
    out = [torch.nn.Parameter(torch.randn(s, generator=random)) for s in shapes]
    with torch.no_grad():
        out[1].zero_()  # like the up matrices of a fresh LoRA
    return out


def pull(parameters, number: int) -> None:
    """Gradients that depend on the weights and the step only."""
    for i, p in enumerate(parameters):
        random = torch.Generator().manual_seed(100 * number + i)
        noise = torch.randn(p.shape, generator=random)
        p.grad = (0.5 * (p.detach().float() - 1.0) + noise).to(p.dtype)


def close(one, two) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def take(updater: Updater, start: int, end: int) -> None:
    for number in range(start, end):
        pull(updater.parameters, number)
        updater.clip()
        updater.step(number)
        updater.zero_grad()


def groups(parameters) -> list[dict]:
    return [{"params": parameters[:1], "factor": 1.0}, {"params": parameters[1:], "factor": 1.0}]
