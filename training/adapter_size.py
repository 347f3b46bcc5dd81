"""How large an adapter is, and what it keeps in a step, before there is a model.

Nothing is estimated: the layers that a job adapts are listed on models without numbers by the rules
that build the adapter, and each different layer gets one adapter on the meta device.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .activations import Load, Unit, text_units, units
from .adapter import text_rates
from .kinds import FROZEN, KINDS
from .targets import UNET, LayerPlan, plan_layers

if TYPE_CHECKING:
    from .job import TrainingJob


@dataclass(frozen=True)
class AdapterSize:
    """The adapter of a job in numbers.

    Attributes:
        trained: parameters that learn.
        frozen: numbers that belong to it and do not.
        largest: parameters of its largest matrix.
        loads: model -> name of the layer in it -> what that layer's adapter keeps in a step.
    """

    trained: int
    frozen: int
    largest: int
    loads: dict[str, dict[str, Load]]


def measure_adapter(
    models: Mapping[str, torch.nn.Module], job: "TrainingJob", dtype: torch.dtype
) -> AdapterSize:
    """Measure the adapter that `add_adapter` would put into models.

    Args:
        models: "unet", and both text encoders where one is trained; not changed, may lie on meta.
        dtype: what the models compute in.

    Raises:
        JobError: see `plan_layers`.
    """
    rates = text_rates(job)
    models = {n: m for n, m in models.items() if n == UNET or n in rates}
    plans = plan_layers(models, job.adapter, rates)
    bases = {plan.key: models[plan.model].get_submodule(plan.module) for plan in plans}
    samples: dict[tuple, tuple[LayerPlan, torch.nn.Module]] = {}
    for plan in plans:
        samples.setdefault(_sort(plan, bases[plan.key]), (plan, bases[plan.key]))
    tensors = _tensors(samples, job)
    trained = frozen = largest = 0
    loads: dict[str, dict[str, Load]] = {name: {} for name in models}
    for plan in plans:
        sizes = tensors[_sort(plan, bases[plan.key])]
        learns = [n for name, n in sizes.items() if name not in FROZEN]
        trained, largest = trained + sum(learns), max(largest, *learns)
        frozen += sum(sizes.values()) - sum(learns)
        copied = sum(sizes.values()) if dtype != _kept_in(job) else 0
        loads[plan.model][plan.module] = _load(plan, bases[plan.key], job, copied, sum(learns))
    return AdapterSize(trained, frozen, largest, loads)


def _sort(plan: LayerPlan, base: torch.nn.Module) -> tuple:
    """Layers alike in this have adapters of the same size."""
    return type(base), tuple(base.weight.shape), plan.rank


def _tensors(
    samples: Mapping[tuple, tuple[LayerPlan, torch.nn.Module]], job: "TrainingJob"
) -> dict[tuple, dict[str, int]]:
    """Numbers in each tensor of one adapter of each sort."""
    kind, host, plans = KINDS[job.adapter.kind], torch.nn.Module(), {}
    for i, (sort, (plan, base)) in enumerate(samples.items()):
        host.add_module(f"layer{i}", copy.deepcopy(base).to("meta"))
        plans[sort] = LayerPlan(plan.key, "", f"layer{i}", plan.rank, plan.alpha, 1.0)
    kind.inject(host, list(plans.values()), job.adapter)
    out = {}
    for sort, plan in plans.items():
        layer = host.get_submodule(plan.module)
        kind.start(layer, job.adapter, torch.Generator())
        out[sort] = {name: tensor.numel() for name, tensor in kind.tensors(layer).items()}
    return out


def _kept_in(job: "TrainingJob") -> torch.dtype:
    return torch.bfloat16 if job.optimizer.weights == "bf16" else torch.float32


def _load(
    plan: LayerPlan, base: torch.nn.Module, job: "TrainingJob", copied: int, learns: int
) -> Load:
    keeps, weight = KINDS[job.adapter.kind].keeps, base.weight
    own = keeps.own + bool(job.adapter.dropout)
    return Load(
        inputs=keeps.inputs,
        per_row=own * weight.shape[1] + keeps.outputs * weight.shape[0] + keeps.low * plan.rank,
        fixed=keeps.weight * weight.numel() + copied * bool(keeps.low),
        learns=learns,
    )


def all_units(
    models: Mapping[str, torch.nn.Module],
    config: Mapping,
    size: tuple[int, int],
    batch: int,
    loads: Mapping[str, Mapping[str, Load]],
) -> list[Unit]:
    """Everything that a step keeps: of the UNet, and of text encoders that learn.

    Args:
        size: (width, height) of the pictures in pixels.
    """
    found = []
    for name in (n for n in loads if n != UNET):
        about = models[name].config
        texts = list(loads[name].values())
        found.append(text_units(name, about.hidden_size, about.num_hidden_layers, batch, texts))
    return found + units(config, *size, batch, loads[UNET], learns=bool(found))
