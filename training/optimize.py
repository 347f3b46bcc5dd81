"""Optimizers by name: ours, torch's, and those of well-kept libraries."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .errors import JobError, StateError
from .optimizer_state import save_groups, save_memory
from .packages import why_not

if TYPE_CHECKING:
    from .learning_settings import OptimizerSettings

OTHER = "other"
# Where `library:Name` may come from: a job can be typed into a workflow that somebody else wrote,
# so nothing but optimizers of these modules is ever imported by name. Value: what pip calls it.
LIBRARIES = {
    "torch.optim": "torch",
    "transformers": "transformers",
    "pytorch_optimizer": "pytorch-optimizer",
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "prodigyplus": "prodigy-plus-schedule-free",
    "lion_pytorch": "lion-pytorch",
    "bitsandbytes.optim": "bitsandbytes",
    "torchao.optim": "torchao",
}
_NEEDS_A_DEVICE = ("bitsandbytes", "torchao")  # a step of theirs may compile or refuse a CPU
_NAME = re.compile(r"(?P<library>[a-z_]+(\.[a-z_]+)?):(?P<name>[A-Za-z]\w*)")


def _adam(settings: "OptimizerSettings") -> dict[str, Any]:
    return {
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }


def _without_eps(settings: "OptimizerSettings") -> dict[str, Any]:
    return {
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }


def _plain_adafactor(settings: "OptimizerSettings") -> dict[str, Any]:
    # our schedule decides the rate; scaled by the weights, a matrix that starts at zero would stay
    return {
        "weight_decay": settings.weight_decay,
        "scale_parameter": False,
        "relative_step": False,
        "warmup_init": False,
    }


def _prodigy(settings: "OptimizerSettings") -> dict[str, Any]:
    # what its authors advise for diffusion models
    return {**_adam(settings), "use_bias_correction": True, "safeguard_warmup": True}


@dataclass(frozen=True)
class OptimizerKind:
    """How an optimizer is called in a job and in file metadata, and how it is made.

    Attributes:
        label: what file metadata calls it.
        classes: "module:Class" in order of preference; the first one that is installed is used.
        arguments: settings -> keyword arguments beside the learning rate.
        rate: the learning rate it takes instead of the settings', None for the settings'.
        schedule: the curve it needs instead of the settings', "" for the settings'.
        averages: whether it keeps averaged weights itself, between its train() and eval().
    """

    name: str
    label: str
    help: str
    classes: tuple[str, ...] = ()
    arguments: Callable[["OptimizerSettings"], dict[str, Any]] = _adam
    rate: float | None = None
    schedule: str = ""
    averages: bool = False


_OURS = f"{__package__}.optimizers"
OPTIMIZERS = {
    k.name: k
    for k in (
        OptimizerKind(
            "adamw",
            "torch.optim.adamw.AdamW",
            "AdamW (arXiv 1711.05101) in one fused kernel.",
            ("torch.optim:AdamW",),
        ),
        OptimizerKind(
            "adamw_8bit",
            "AdamW8bit",
            "AdamW with its memory in 8 bit (arXiv 2110.02861); needs bitsandbytes or torchao.",
            ("bitsandbytes.optim:AdamW8bit", "torchao.optim:AdamW8bit"),
        ),
        OptimizerKind(
            "lion",
            "Lion",
            "Steps by the sign of the mean gradient (arXiv 2302.06675): a third of AdamW's "
            "memory; take a third to a tenth of its rate, and beta2 0.99.",
            (f"{_OURS}:Lion",),
            _without_eps,
        ),
        OptimizerKind(
            "adafactor",
            "transformers.optimization.Adafactor",
            "Keeps row and column sums only (arXiv 1804.04235): nearly no memory.",
            ("transformers:Adafactor",),
            _plain_adafactor,
        ),
        OptimizerKind(
            "prodigy",
            "Prodigy",
            "Finds the learning rate itself (arXiv 2306.06101).",
            (f"{_OURS}:Prodigy",),
            _prodigy,
            rate=1.0,
        ),
        OptimizerKind(
            "schedule_free",
            "AdamWScheduleFree",
            "AdamW on averaged weights that needs no falling rate (arXiv 2405.15682).",
            (f"{_OURS}:AdamWScheduleFree",),
            schedule="constant",
            averages=True,
        ),
        OptimizerKind(OTHER, "", "The optimizer that `name` says."),
    )
}


def check_name(name: str) -> tuple[str, str]:
    """(library, class) of "library:Name".

    Raises:
        ValueError: not of that form, or not one of LIBRARIES.
    """
    match = _NAME.fullmatch(name)
    if not match or match["library"] not in LIBRARIES:
        raise ValueError("write library:Name with a library of " + ", ".join(LIBRARIES))
    return match["library"], match["name"]


def label(settings: "OptimizerSettings") -> str:
    """What file metadata calls the optimizer."""
    return OPTIMIZERS[settings.kind].label or settings.name.replace(":", ".")


def base_rate(settings: "OptimizerSettings") -> float:
    """The learning rate before the schedule."""
    own = OPTIMIZERS[settings.kind].rate
    return settings.learning_rate if own is None else own


def make_optimizer(parameters: Iterable, settings: "OptimizerSettings") -> torch.optim.Optimizer:
    """The optimizer the settings name, over parameters or parameter groups.

    Raises:
        JobError: its library is missing, it does not exist, or it refuses the options.
    """
    kind = OPTIMIZERS[settings.kind]
    if kind.name == OTHER:
        made = _find(settings.name)
        arguments = _accepted(made, _adam(settings))
    else:
        made = _first_installed(kind)
        arguments = kind.arguments(settings)
    groups = list(parameters)
    if kind.name == "adamw":
        arguments["fused"] = all(p.device.type in ("cuda", "cpu") for p in _flat(groups))
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items()}
    try:
        return made(groups, lr=base_rate(settings), **{**arguments, **options})
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JobError(f"Optimizer {made.__name__} refuses its options: {reason}.") from None


def check_optimizer(settings: "OptimizerSettings") -> None:
    """Refuse at once what would only fail after everything is encoded.

    One by name takes a step on a weight of four numbers, and what it remembers must be of a kind
    that can be saved.

    Raises:
        JobError: as `make_optimizer`; or it cannot train here.
    """
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer([weight], settings)
    if settings.kind != OTHER or settings.name.startswith(_NEEDS_A_DEVICE):
        return
    weight.grad = torch.ones(2, 2)
    try:
        for start in ("train", "step"):
            getattr(optimizer, start, lambda: None)()
        save_memory(optimizer.state[weight])
        save_groups(optimizer)
    except (TypeError, ValueError, RuntimeError, AttributeError, StateError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JobError(
            f"Setting 'optimizer.name': {settings.name} cannot train here ({reason}): choose "
            "another optimizer."
        ) from None


def _flat(groups: list) -> list[torch.Tensor]:
    return [p for g in groups for p in (g["params"] if isinstance(g, dict) else [g])]


def _accepted(made: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that a class names; the others stay as it likes them."""
    known = inspect.signature(made).parameters
    out = {k: v for k, v in arguments.items() if k in known}
    betas = known["betas"].default if "betas" in known else ()
    if not isinstance(betas, tuple) or len(betas) != 2:
        out.pop("betas", None)  # three and more of them: other numbers than ours
    return out


def _first_installed(kind: OptimizerKind) -> type[torch.optim.Optimizer]:
    broken = []
    for name in kind.classes:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a broken package may raise anything
            told = why_not(error) or f"{type(error).__name__}: {error}."
            broken += [told] if " is missing: " not in told else []
    packages = [LIBRARIES.get(c.partition(":")[0], c) for c in kind.classes]
    raise JobError(
        f"Setting 'optimizer.kind': {kind.name} needs a package that can be imported: "
        f"pip install {' or '.join(packages)}, in ComfyUI's Python. {' '.join(broken)}".strip()
    )


def _find(name: str) -> type[torch.optim.Optimizer]:
    library, attribute = check_name(name)
    try:
        module = importlib.import_module(library)
    except Exception as error:  # a broken package may raise anything
        told = why_not(error)
        if not told:
            raise
        raise JobError(f"Setting 'optimizer.name': {name} cannot be had. {told}") from None
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise JobError(f"Setting 'optimizer.name': {library} has no optimizer {attribute!r}.")
    return found
