"""The trainable part: PEFT LoRA layers beside a frozen diffusers UNet."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .errors import JobError
from .rng import generator

if TYPE_CHECKING:
    from .job import TrainingJob

ADAPTER = "default"  # PEFT's name for the one adapter there is


@dataclass(frozen=True)
class Target:
    """A set of layers: `accepts(name)` is asked for every linear layer of the transformers."""

    name: str
    help: str
    accepts: Callable[[str], bool]


TARGETS = {
    t.name: t
    for t in (
        Target(
            "transformer", "All linear layers of the transformers, as sd-scripts.", lambda n: True
        ),
        Target(
            "attention",
            "Only the attention's query, key, value and output layers.",
            lambda n: ".attn1." in n or ".attn2." in n,
        ),
    )
}


def target_modules(unet: torch.nn.Module, target: str) -> list[str]:
    """Names of the layers that get an adapter, in the model's order.

    Every linear layer inside a Transformer2DModel that the target accepts: 722 in full SDXL for
    "transformer".
    """
    from diffusers import Transformer2DModel

    names = []
    for outer, block in unet.named_modules():
        if isinstance(block, Transformer2DModel):
            for inner, layer in block.named_modules():
                name = f"{outer}.{inner}"
                if isinstance(layer, torch.nn.Linear) and TARGETS[target].accepts(name):
                    names.append(name)
    return names


@dataclass(frozen=True)
class LoraPair:
    """The two matrices of one adapted layer: down (rank, in) and up (out, rank)."""

    down: torch.nn.Parameter
    up: torch.nn.Parameter


class Adapter:
    """LoRA layers inside a UNet.

    Attributes:
        unet: the model; its own weights stay frozen and untouched.
        names: adapted layers in the model's order, diffusers names.
        rank, alpha: the effect is up @ down x alpha / rank.
    """

    def __init__(self, unet: torch.nn.Module, names: list[str], rank: int, alpha: float):
        self.unet = unet
        self.names = names
        self.rank = rank
        self.alpha = alpha

    def pairs(self) -> Iterator[tuple[str, LoraPair]]:
        """(layer name, matrices), in the model's order."""
        for name in self.names:
            layer = self.unet.get_submodule(name)
            yield name, LoraPair(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained, always in the same order."""
        return [p for _, pair in self.pairs() for p in (pair.down, pair.up)]

    def state(self) -> dict[str, torch.Tensor]:
        """`<layer>.down` and `<layer>.up`, detached but not copied."""
        out = {}
        for name, pair in self.pairs():
            out[f"{name}.down"] = pair.down.detach()
            out[f"{name}.up"] = pair.up.detach()
        return out

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Copy tensors from `state()` of an equal adapter into this one."""
        for name, pair in self.pairs():
            pair.down.copy_(state[f"{name}.down"])
            pair.up.copy_(state[f"{name}.up"])

    def enable(self, enabled: bool) -> None:
        """Switch the adapter's effect on or off without touching its weights."""
        for name in self.names:
            self.unet.get_submodule(name).enable_adapters(enabled)


class _MasterLinear(torch.nn.Linear):
    """A linear layer with float32 weights that computes in its input's type.

    Gradients arrive in float32, activations are kept in the model's own type.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype))


def add_adapter(unet: torch.nn.Module, job: "TrainingJob") -> Adapter:
    """Put the job's adapter into a frozen UNet; only the adapter is trainable afterwards.

    Raises:
        JobError: the UNet has no layer that the job targets.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = target_modules(unet, job.adapter.targets)
    if not names:
        raise JobError(f"adapter.targets {job.adapter.targets!r} matches no layer of this UNet.")
    config = LoraConfig(
        r=job.adapter.rank,
        lora_alpha=job.alpha,
        lora_dropout=job.adapter.dropout,
        target_modules=names,
        bias="none",
    )
    unet.requires_grad_(False)
    inject_adapter_in_model(config, unet, ADAPTER)
    adapter = Adapter(unet, names, job.adapter.rank, job.alpha)
    _prepare(adapter, job.seed)
    trainable = {id(p) for p in unet.parameters() if p.requires_grad}
    if trainable != {id(p) for p in adapter.parameters()}:
        raise JobError("The installed peft adapted other layers than asked for: update peft.")
    return adapter


def _prepare(adapter: Adapter, seed: int) -> None:
    """float32 masters with reproducible first values: down uniform, up zero, as PEFT's default."""
    for name in adapter.names:
        layer = adapter.unet.get_submodule(name)
        layer.cast_input_dtype_enabled = False  # _MasterLinear casts the weights instead
        for side in (layer.lora_A, layer.lora_B):
            side[ADAPTER].__class__ = _MasterLinear
            side[ADAPTER].to(torch.float32)
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        if down.is_meta:
            continue
        values = torch.empty(down.shape)
        random = generator(seed, "adapter", name)
        torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=random)
        with torch.no_grad():
            down.copy_(values)
            up.zero_()
