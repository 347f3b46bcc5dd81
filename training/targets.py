"""Which layers are trained, and how: presets of layers, name patterns, ranks and rates per block.

Layers carry diffusers' names: `down_blocks.1.attentions.0...` in the UNet, and with a prefix
`text_encoder.text_model...` (CLIP-L) and `text_encoder_2.text_model...` (OpenCLIP bigG).
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from .errors import JobError

if TYPE_CHECKING:
    from .job import AdapterSettings

UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TRANSFORMER, RESNET, OTHER = "transformer", "resnet", "other"
# B-LoRA (arXiv 2403.14572, section 4): these two blocks of SDXL decide content and style.
CONTENT_BLOCK = "up_blocks.0.attentions.0"
STYLE_BLOCK = "up_blocks.0.attentions.1"
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class Target:
    """A set of layers: `accepts(name, place)` is asked for every layer of the UNet.

    `place` says what the layer is part of: a "transformer" (linear layers), a "resnet" (with the
    down- and upsamplers), or "other".
    """

    name: str
    help: str
    accepts: Callable[[str, str], bool]


def _inside(block: str) -> Callable[[str, str], bool]:
    return lambda name, place: place == TRANSFORMER and name.startswith(f"{block}.")


TARGETS = {
    t.name: t
    for t in (
        Target(
            "transformer",
            "All linear layers of the transformers, as sd-scripts.",
            lambda name, place: place == TRANSFORMER,
        ),
        Target(
            "attention",
            "Only the attention's query, key, value and output layers.",
            lambda name, place: ".attn1." in name or ".attn2." in name,
        ),
        Target(
            "all",
            "Transformers, resnets, down- and upsamplers: convolutions too (LoCon).",
            lambda name, place: place in (TRANSFORMER, RESNET),
        ),
        Target("content", "The one block that decides content (B-LoRA).", _inside(CONTENT_BLOCK)),
        Target("style", "The one block that decides style (B-LoRA).", _inside(STYLE_BLOCK)),
    )
}


@dataclass(frozen=True)
class LayerPlan:
    """One layer that gets an adapter.

    Attributes:
        key: its full name; names its tensors in states.
        model: "unet", "text_encoder" or "text_encoder_2".
        module: its name inside the model as it is loaded.
        rate: what the learning rate is multiplied with.
    """

    key: str
    model: str
    module: str
    rank: int
    alpha: float
    rate: float


def target_modules(unet: torch.nn.Module, target: str) -> list[str]:
    """Names of the layers a preset means, in the model's order: 722 in full SDXL for
    "transformer"."""
    accepts = TARGETS[target].accepts
    return [name for name, place in _places(unet).items() if accepts(name, place)]


def _places(unet: torch.nn.Module) -> dict[str, str]:
    """name -> place of every linear and convolution layer of a UNet, in the model's order."""
    from diffusers import Transformer2DModel
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    blocks = {
        name: TRANSFORMER if isinstance(module, Transformer2DModel) else RESNET
        for name, module in unet.named_modules()
        if isinstance(module, Transformer2DModel | ResnetBlock2D | Downsample2D | Upsample2D)
    }
    out = {}
    for name, module in unet.named_modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            continue
        parents = (name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))
        place = next((blocks[p] for p in parents if p in blocks), OTHER)
        if place == TRANSFORMER and not isinstance(module, torch.nn.Linear):
            place = RESNET  # a 1x1 convolution around the blocks: none in SDXL
        out[name] = place
    return out


def text_modules(encoder: torch.nn.Module) -> list[str]:
    """Names of a CLIP text model's linear layers inside its blocks: 72 in CLIP-L, 192 in bigG."""
    return [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear)
        and ".layers." in f".{name}"
        and name.endswith(TEXT_LAYERS)
    ]


def full_name(model: str, module: str) -> str:
    """The key of a layer; transformers 5 leaves `text_model.` out of CLIP-L's names."""
    if model == UNET:
        return module
    return f"{model}.{module if module.startswith('text_model.') else f'text_model.{module}'}"


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a layer: it fits one or more whole, dotted parts of its name.

    `*` and `?` stand for other letters: "attn2", "up_blocks.0.attentions.1", "down_blocks.*.ff".
    """
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def of_pattern(values: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value whose pattern fits a layer; where several do, the last one counts."""
    for pattern, value in reversed(list(values.items())):
        if matches(pattern, name):
            return value
    return default


def rank_of(name: str, settings: "AdapterSettings") -> int:
    """The rank of a layer's adapter."""
    return of_pattern(settings.block_ranks, name, settings.rank)


def alpha_of(rank: int, settings: "AdapterSettings") -> float:
    """The alpha of an adapter of that rank."""
    return float(rank if settings.alpha is None else settings.alpha)


def plan_layers(
    models: Mapping[str, torch.nn.Module],
    settings: "AdapterSettings",
    rates: Mapping[str, float] | None = None,
) -> list[LayerPlan]:
    """Every layer of the models that gets an adapter, in the models' order.

    Args:
        models: "unet", and text encoders if they are trained.
        rates: learning rate of a model, as a factor; 1 where it is missing.

    Raises:
        JobError: nothing matches, or a pattern matches no layer.
    """
    names = {UNET: _unet_layers(models[UNET], settings)}
    names |= {m: text_modules(models[m]) for m in TEXT_ENCODERS if m in models}
    plans = []
    for model, modules in names.items():
        for module in modules:
            key = full_name(model, module)
            rank = rank_of(key, settings)
            rate = of_pattern(settings.block_rates, key, 1.0) * (rates or {}).get(model, 1.0)
            if rank:
                plans.append(LayerPlan(key, model, module, rank, alpha_of(rank, settings), rate))
    known = [full_name(model, module) for model, modules in names.items() for module in modules]
    for setting in ("block_ranks", "block_rates"):
        _require_matches(getattr(settings, setting), known, f"adapter.{setting}")
    if not plans:
        raise JobError(f"adapter.targets {settings.targets!r} matches no layer of this UNet.")
    return plans


def _unet_layers(unet: torch.nn.Module, settings: "AdapterSettings") -> list[str]:
    if not settings.layers:
        return target_modules(unet, settings.targets)
    known = list(_places(unet))
    _require_matches(settings.layers, known, "adapter.layers")
    return [n for n in known if any(matches(p, n) for p in settings.layers)]


def _require_matches(patterns: Iterable[str], names: list[str], setting: str) -> None:
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            parts = {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 2)}
            near = difflib.get_close_matches(pattern, sorted(parts), 1, 0.7)
            hint = f": did you mean {near[0]!r}?" if near else "."
            raise JobError(f"Setting {setting!r}: {pattern!r} matches no trained layer{hint}")
