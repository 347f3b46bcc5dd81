"""The trainable part: adapter layers inside a frozen diffusers UNet, and text encoders if asked.

`targets` says which layers, `kinds` what is put into them, `masters` how that computes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .embedding import NewWords
from .errors import JobError
from .fused import fuse, simplify
from .kinds import FROZEN, KINDS, AdapterKind
from .rng import generator
from .start_from import start_from
from .targets import TARGETS, TEXT_ENCODERS, UNET, LayerPlan, plan_layers, target_modules

if TYPE_CHECKING:
    from .job import TrainingJob

__all__ = ["TARGETS", "Adapter", "LoraPair", "add_adapter", "target_modules", "text_rates"]


@dataclass(frozen=True)
class LoraPair:
    """The two matrices of one adapted layer: down (rank, in) and up (out, rank)."""

    down: torch.nn.Parameter
    up: torch.nn.Parameter


class Adapter:
    """Adapter layers inside a UNet and, where they are trained, its text encoders.

    Attributes:
        unet: the model; its own weights stay frozen and untouched.
        models: the adapted models: "unet", "text_encoder", "text_encoder_2".
        plans: the adapted layers, in the models' order.
        names: their names: diffusers names, with a prefix for text encoders'.
        kind: what the layers hold.
        words: new words that are learnt with them.
        rank, alpha: of layers without a rank of their own.
    """

    def __init__(
        self,
        models: Mapping[str, torch.nn.Module],
        plans: Sequence[LayerPlan],
        kind: AdapterKind,
        rank: int,
        alpha: float,
    ):
        self.models = dict(models)
        self.unet = models[UNET]
        self.plans = list(plans)
        self.names = [p.key for p in plans]
        self.kind = kind
        self.words: NewWords | None = None
        self.rank = rank
        self.alpha = alpha

    def layer(self, plan: LayerPlan) -> torch.nn.Module:
        """The module that holds a layer's adapter."""
        return self.models[plan.model].get_submodule(plan.module)

    def pairs(self) -> Iterator[tuple[str, LoraPair]]:
        """(layer name, matrices) of the LoRA kinds, in the model's order."""
        for plan in self.plans:
            tensors = self.kind.tensors(self.layer(plan))
            yield plan.key, LoraPair(tensors["down"], tensors["up"])

    def _tensors(self) -> Iterator[tuple[LayerPlan, str, torch.Tensor]]:
        for plan in self.plans:
            for name, tensor in self.kind.tensors(self.layer(plan)).items():
                yield plan, name, tensor

    def tensors(self) -> list[torch.Tensor]:
        """Everything that belongs to the adapter, whether or not it learns."""
        return [tensor for _, _, tensor in self._tensors()]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained, always in the same order."""
        return [p for group in self.groups() for p in group["params"]]

    def groups(self, up_factor: float = 1.0) -> list[dict]:
        """`parameters` as an optimizer's groups, one for each learning rate.

        "factor" is what the learning rate of a group is multiplied with in every step.

        Args:
            up_factor: of the matrices that start at zero, beside their layers' own factor.
        """
        groups: dict[float, list] = {}
        for plan, name, tensor in self._tensors():
            if name not in FROZEN:
                factor = plan.rate * (up_factor if name == "up" else 1.0)
                groups.setdefault(factor, []).append(tensor)
        made = [{"params": p, "factor": factor} for factor, p in groups.items()]
        return made + ([self.words.group()] if self.words else [])

    def state(self) -> dict[str, torch.Tensor]:
        """`<layer>.<short name of the tensor>`, detached but not copied; vectors of new words."""
        out = {f"{p.key}.{name}": tensor.detach() for p, name, tensor in self._tensors()}
        return out | (self.words.state() if self.words else {})

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Copy tensors from `state()` of an equal adapter into this one."""
        for plan, name, tensor in self._tensors():
            tensor.copy_(state[f"{plan.key}.{name}"])
        for name, tensor in (self.words.state() if self.words else {}).items():
            tensor.copy_(state[name])

    def enable(self, enabled: bool) -> None:
        """Switch the adapter's effect on or off without touching its weights."""
        for plan in self.plans:
            self.layer(plan).enable_adapters(enabled)
        if self.words:
            self.words.enable(enabled)

    def train(self, mode: bool = True) -> None:
        """Put every adapted model into training mode (dropout works) or out of it."""
        for model in self.models.values():
            model.train(mode)


def text_rates(job: "TrainingJob") -> dict[str, float]:
    """Learning rate of each trained text encoder as a factor of the UNet's; empty if none is."""
    settings = job.text_encoders
    rates = zip(TEXT_ENCODERS, (settings.learning_rate_1, settings.learning_rate_2), strict=True)
    return {name: rate / job.optimizer.learning_rate for name, rate in rates if rate}


def add_adapter(
    unet: torch.nn.Module,
    job: "TrainingJob",
    text_encoders: Sequence[torch.nn.Module] = (),
) -> Adapter:
    """Put the job's adapter into frozen models; only the adapter is trainable afterwards.

    Args:
        text_encoders: CLIP-L and bigG; needed if the job trains one of them.

    Raises:
        JobError: the models have no layer that the job targets, or a pattern matches none.
    """
    rates = text_rates(job)
    models = {UNET: unet}
    models |= {n: m for n, m in zip(TEXT_ENCODERS, text_encoders, strict=False) if n in rates}
    plans = plan_layers(models, job.adapter, rates)
    kind = KINDS[job.adapter.kind]
    for name, model in models.items():
        model.requires_grad_(False)
        own = [p for p in plans if p.model == name]
        if own:
            kind.inject(model, own, job.adapter)
    adapter = Adapter(models, plans, kind, job.adapter.rank, job.alpha)
    for plan in plans:
        kind.start(adapter.layer(plan), job.adapter, generator(job.seed, "adapter", plan.key))
        fuse(adapter.layer(plan))
    simplify(unet)
    trainable = {id(p) for m in models.values() for p in m.parameters() if p.requires_grad}
    if trainable != {id(p) for p in adapter.parameters()}:
        raise JobError("The installed peft adapted other layers than asked for: update peft.")
    adapter.words = NewWords.of(text_encoders, job)
    if job.adapter.start_from:
        start_from(adapter, job.adapter.start_from)
    return adapter
