"""Kinds of adapters: how each is put into a model, starts, and is written to a file.

Adding a kind is adding one entry to KINDS. PEFT builds the layers; `masters` adds what it lacks.
A layer's trained tensors are known by short names ("down", "hada_w1_a"); names in FROZEN belong
to the adapter as well but do not learn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import masters
from .lowrank import balanced, svd_of_product, truncated_svd
from .masters import ADAPTER
from .targets import LayerPlan, alpha_of, rank_of

if TYPE_CHECKING:
    from .job import AdapterSettings

Tensors = dict[str, torch.Tensor]
FROZEN = ("down0", "up0")  # where PiSSA started
LORA_PARTS = ("lora_A", "lora_B")
LOHA_PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR_PARTS = (
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
    *("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)


@dataclass(frozen=True)
class Keeps:
    """What a layer's adapter keeps for the backward pass, for the memory plan.

    Attributes:
        inputs: whether it needs the layer's input; layers beside it may share that.
        own, outputs: further tensors as large as the layer's input and output.
        low: tensors of `rank` numbers per row.
        weight: tensors as large as the layer's weight.
    """

    inputs: bool = True
    own: int = 0
    outputs: int = 0
    low: int = 1
    weight: int = 0


@dataclass(frozen=True)
class AdapterKind:
    """One kind of adapter.

    Attributes:
        help: what it is, with its paper.
        module, algorithm: what sd-scripts and LyCORIS call it in `ss_network_module` and in
            `ss_network_args`.
        dropouts: which dropout settings it knows.
        inject: (model, plans, settings) puts it into the layers of one model.
        start: (layer, settings, generator) makes float32 masters and gives them first values.
        tensors: (layer) -> short name -> parameter or buffer, always in the same order.
        export: (tensors of one layer, rank, alpha) -> keys of a LoRA file without their stem.
        in_file: (rank, alpha) of a job -> those of its file.
        keeps: what it adds to the memory of a forward pass.
    """

    name: str
    help: str
    module: str
    algorithm: str | None
    dropouts: tuple[str, ...]
    inject: Callable[[torch.nn.Module, Sequence[LayerPlan], "AdapterSettings"], None]
    start: Callable[[torch.nn.Module, "AdapterSettings", torch.Generator], None]
    tensors: Callable[[torch.nn.Module], Tensors]
    export: Callable[[Mapping[str, torch.Tensor], int, float], Tensors]
    in_file: Callable[[int, float], tuple[int, float]] = lambda rank, alpha: (rank, alpha)
    keeps: Keeps = Keeps()


def export_layer(
    name: str, tensors: Mapping[str, torch.Tensor], settings: "AdapterSettings"
) -> Tensors:
    """What a LoRA file says about one layer, float32: key without the layer's stem -> tensor."""
    rank = rank_of(name, settings)
    return KINDS[settings.kind].export(tensors, rank, alpha_of(rank, settings))


# ------------------------------------------------------------------------------ putting it in


def _inject(model: torch.nn.Module, plans: Sequence[LayerPlan], config: Callable[..., Any]) -> None:
    """One injection for each rank: PEFT's own rank patterns take minutes for hundreds of layers."""
    from peft import inject_adapter_in_model

    groups: dict[tuple[int, float], list[str]] = {}
    for plan in plans:
        groups.setdefault((plan.rank, plan.alpha), []).append(plan.module)
    for (rank, alpha), modules in groups.items():
        vars(model).pop("peft_config", None)  # of the rank before: PEFT would warn of it
        inject_adapter_in_model(config(rank, alpha, modules), model, ADAPTER)


def _inject_lora(model, plans: Sequence[LayerPlan], settings: "AdapterSettings") -> None:
    from peft import LoraConfig

    def config(rank: int, alpha: float, modules: list[str]):
        return LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=settings.dropout,
            use_rslora=settings.kind == "rslora",
            target_modules=modules,
            bias="none",
        )

    _inject(model, plans, config)


def _inject_lycoris(model, plans: Sequence[LayerPlan], settings: "AdapterSettings") -> None:
    from peft import LoHaConfig, LoKrConfig

    def config(rank: int, alpha: float, modules: list[str]):
        common = {"r": rank, "alpha": alpha, "target_modules": modules}
        common["module_dropout"] = settings.module_dropout
        if settings.kind == "loha":
            return LoHaConfig(**common)
        return LoKrConfig(decompose_factor=settings.factor, **common)

    _inject(model, plans, config)


def _inject_rotations(model, plans: Sequence[LayerPlan], settings: "AdapterSettings") -> None:
    for plan in plans:
        base = model.get_submodule(plan.module)
        channels = base.weight.shape[0]
        size = max(n for n in range(1, min(plan.rank, channels) + 1) if channels % n == 0)
        blocks = torch.zeros(channels // size, size, size, device=base.weight.device)
        model.set_submodule(plan.module, masters.OutputRotation(base, blocks))


# ----------------------------------------------------------------------------- first values


def _kaiming(parameter: torch.Tensor, random: torch.Generator) -> None:
    """PEFT's default for fresh matrices, from a generator of our own."""
    values = torch.empty(parameter.shape)
    torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=random)
    with torch.no_grad():
        parameter.copy_(values)


def _start_lora(layer, settings: "AdapterSettings", random: torch.Generator) -> None:
    layer.cast_input_dtype_enabled = False  # the masters cast the weights instead
    for side in (layer.lora_A, layer.lora_B):
        masters.make_master(side[ADAPTER])
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    down.rank_dropout, down.module_dropout = settings.rank_dropout, settings.module_dropout
    if not down.weight.is_meta:
        _kaiming(down.weight, random)
        torch.nn.init.zeros_(up.weight)


def _start_dora(layer, settings: "AdapterSettings", random: torch.Generator) -> None:
    _start_lora(layer, settings, random)
    lengths = masters.column_lengths(layer.get_base_layer().weight.detach())
    layer.lora_magnitude_vector[ADAPTER] = masters.Magnitudes(lengths)
    layer.lora_variant[ADAPTER] = masters.Dora()


def _start_pissa(layer, settings: "AdapterSettings", random: torch.Generator) -> None:
    _start_lora(layer, settings, random)
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    layer.lora_variant[ADAPTER] = masters.Pissa()
    if not down.weight.is_meta:
        weight = layer.get_base_layer().weight.detach().float().flatten(1)
        rank = len(down.weight)
        u, s, v = truncated_svd(weight, rank, random)
        first, second = balanced(u, s / layer.scaling[ADAPTER], v, rank)
        with torch.no_grad():
            up.weight[:, : first.shape[1]] = first.view(len(first), -1, *up.weight.shape[2:])
            down.weight[: len(second)] = second.view(-1, *down.weight.shape[1:])
            # a layer smaller than the rank: what is left over starts as plain LoRA
            up.weight[:, first.shape[1] :] = 0
    layer.register_buffer("pissa_down", down.weight.detach().clone())
    layer.register_buffer("pissa_up", up.weight.detach().clone())


def _start_lycoris(layer, settings: "AdapterSettings", random: torch.Generator) -> None:
    layer.__class__ = masters.with_dense_master(type(layer))
    layer.input_dropout, layer.row_dropout = settings.dropout, settings.rank_dropout
    zero = next(n for n in ("hada_w2_b", "lokr_w1", "lokr_w1_a") if _part(layer, n) is not None)
    for name, parameter in _lycoris_tensors(layer).items():
        parameter.data = parameter.data.float()
        if parameter.is_meta:
            continue
        if name == zero:
            torch.nn.init.zeros_(parameter)
        else:
            _kaiming(parameter, random)


def _start_oft(layer, settings: "AdapterSettings", random: torch.Generator) -> None:
    layer.module_dropout = settings.module_dropout


# --------------------------------------------------------------------------------- tensors


def _lora_tensors(layer) -> Tensors:
    return {"down": layer.lora_A[ADAPTER].weight, "up": layer.lora_B[ADAPTER].weight}


def _dora_tensors(layer) -> Tensors:
    return _lora_tensors(layer) | {"magnitude": layer.lora_magnitude_vector[ADAPTER].weight}


def _pissa_tensors(layer) -> Tensors:
    return _lora_tensors(layer) | {
        "down0": layer.pissa_down,
        "up0": layer.pissa_up,
    }


def _part(layer, name: str) -> torch.Tensor | None:
    parts = getattr(layer, name, None)
    return parts[ADAPTER] if parts is not None and ADAPTER in parts else None


def _lycoris_tensors(layer) -> Tensors:
    found = ((name, _part(layer, name)) for name in (*LOHA_PARTS, *LOKR_PARTS))
    return {name: tensor for name, tensor in found if tensor is not None}


def _oft_tensors(layer) -> Tensors:
    return {"oft_blocks": layer.oft_blocks}


# ---------------------------------------------------------------------------------- export


def _export_lora(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    return {
        "lora_down.weight": tensors["down"],
        "lora_up.weight": tensors["up"],
        "alpha": torch.tensor(alpha),
    }


def _export_rslora(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    """Readers scale by alpha / rank, rsLoRA by alpha / sqrt(rank) (arXiv 2312.03732, eq. 4)."""
    return _export_lora(tensors, rank, alpha * math.sqrt(rank))


def _export_dora(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    down, magnitude = tensors["down"], tensors["magnitude"]
    shape = (1, -1, *[1] * (down.ndim - 2))
    return _export_lora(tensors, rank, alpha) | {"dora_scale": magnitude.view(shape)}


def _export_pissa(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    """The change BA - B0 A0 of the original weight, a LoRA of twice the rank.

    Written with balanced sizes: B and B0 are as large as the weight itself, and their difference
    would drown in the rounding of a 16-bit file.
    """
    down, up = (tensors[n].cpu().double().flatten(1) for n in ("down", "up"))
    down0, up0 = (tensors[n].cpu().double().flatten(1) for n in ("down0", "up0"))
    both = torch.cat([up, -up0], dim=1), torch.cat([down, down0])
    u, s, v = svd_of_product(*both)
    wide = len(s)
    new_up, new_down = balanced(u, s, v, wide)
    return {
        "lora_down.weight": new_down.view(wide, *tensors["down"].shape[1:]).float(),
        "lora_up.weight": new_up.view(-1, wide, *tensors["up"].shape[2:]).float(),
        "alpha": torch.tensor(alpha * wide / rank),
    }


def _export_loha(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    return {**tensors, "alpha": torch.tensor(alpha)}


def _export_lokr(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    """ComfyUI ignores alpha where neither factor has a rank: then the scale goes into w1."""
    out = dict(tensors)
    if "lokr_w1" in out and "lokr_w2" in out:
        out["lokr_w1"] = out["lokr_w1"] * (alpha / rank)
        alpha = rank
    return {**out, "alpha": torch.tensor(float(alpha))}


def _export_oft(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> Tensors:
    return {**tensors, "alpha": torch.tensor(0.0)}  # no limit of the rotation, as LyCORIS says it


ALL_DROPOUTS = ("dropout", "rank_dropout", "module_dropout")
_LORA = ("networks.lora", None)
_LYCORIS = "lycoris.kohya"
KINDS = {
    k.name: k
    for k in (
        AdapterKind(
            "lora",
            "Two thin matrices beside each layer (arXiv 2106.09685).",
            *_LORA,
            ALL_DROPOUTS,
            _inject_lora,
            _start_lora,
            _lora_tensors,
            _export_lora,
        ),
        AdapterKind(
            "rslora",
            "LoRA scaled by alpha / sqrt(rank), for high ranks (arXiv 2312.03732).",
            *_LORA,
            ALL_DROPOUTS,
            _inject_lora,
            _start_lora,
            _lora_tensors,
            _export_rslora,
            lambda rank, alpha: (rank, alpha * math.sqrt(rank)),
        ),
        AdapterKind(
            "dora",
            "LoRA for the direction of each column, its length learned apart (arXiv 2402.09353).",
            _LYCORIS,
            "locon",
            ("dropout", "rank_dropout"),
            _inject_lora,
            _start_dora,
            _dora_tensors,
            _export_dora,
            keeps=Keeps(own=1),
        ),
        AdapterKind(
            "pissa",
            "LoRA that starts from the weight's main directions (arXiv 2404.02948).",
            *_LORA,
            ("dropout",),
            _inject_lora,
            _start_pissa,
            _pissa_tensors,
            _export_pissa,
            lambda rank, alpha: (2 * rank, 2 * alpha),
        ),
        AdapterKind(
            "loha",
            "Product of two low-rank matrices, element by element (arXiv 2108.06098).",
            _LYCORIS,
            "loha",
            ALL_DROPOUTS,
            _inject_lycoris,
            _start_lycoris,
            _lycoris_tensors,
            _export_loha,
            keeps=Keeps(low=0, weight=1),
        ),
        AdapterKind(
            "lokr",
            "Kronecker product of two matrices: very small files (arXiv 2309.14859).",
            _LYCORIS,
            "lokr",
            ALL_DROPOUTS,
            _inject_lycoris,
            _start_lycoris,
            _lycoris_tensors,
            _export_lokr,
            keeps=Keeps(low=0, weight=1),
        ),
        AdapterKind(
            "oft",
            "Rotations of output channels in blocks of at most rank (arXiv 2306.07280).",
            _LYCORIS,
            "diag-oft",
            ("module_dropout",),
            _inject_rotations,
            _start_oft,
            _oft_tensors,
            _export_oft,
            keeps=Keeps(inputs=False, outputs=1, low=0),
        ),
    )
}
