"""What optimizers remember, as tensors and plain numbers: no pickle, no cast, bit for bit back."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import StateError

PLAIN = (bool, int, float, str, type(None))
# Tensors made of tensors (8-bit memory) come back as the classes they were, of these modules only.
_COMPOUND_MODULES = ("torchao.",)
_PARTS, _KIND = "#parts", "#kind"


@dataclass
class UpdateState:
    """What an updater needs to go on, beside the weights themselves.

    Attributes:
        optimizer: class of the optimizer; another one cannot read what it left.
        memory: per weight, in the adapter's order, the optimizer's tensors and numbers.
        groups: the same per group of weights, without the weights.
        mean: running mean of every weight, float32; empty without one.
        updates: steps that moved the weights.
    """

    optimizer: str = ""
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    mean: list[torch.Tensor] = field(default_factory=list)
    updates: int = 0


def save_memory(memory: Mapping[str, Any]) -> dict[str, Any]:
    """One weight's memory as a flat dict of tensors and JSON values.

    Raises:
        StateError: it holds something else.
    """
    out: dict[str, Any] = {}
    for key, value in memory.items():
        if _is_compound(value):
            names, context = value.__tensor_flatten__()
            for name in names:
                out[f"{key}{_PARTS}{name}"] = getattr(value, name).detach()
            kind = type(value)
            out[f"{key}{_KIND}"] = {
                "class": f"{kind.__module__}:{kind.__qualname__}",
                "parts": list(names),
                "context": [_plain(key, x) for x in context],
                "shape": list(value.shape),
                "stride": list(value.stride()),
            }
        elif isinstance(value, torch.Tensor):
            out[key] = value.detach()
        else:
            out[key] = _plain(key, value)
    return out


def load_memory(
    saved: Mapping[str, Any], device: torch.device, group: Mapping[str, Any]
) -> dict[str, Any]:
    """The reverse of `save_memory`, on `device`."""
    out: dict[str, Any] = {}
    for key, value in saved.items():
        if key.endswith(_KIND):
            name = key.removesuffix(_KIND)
            out[name] = _compound(name, value, saved, device)
        elif _PARTS in key:
            continue
        elif isinstance(value, torch.Tensor):
            # torch keeps its step counters on the CPU unless the kernel reads them
            counter = key == "step" and value.ndim == 0
            stays = counter and not (group.get("fused") or group.get("capturable"))
            out[key] = value.clone() if stays else value.to(device, copy=True)
        else:
            out[key] = _restored(value)
    return out


def save_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer keeps per group: its arguments, and for some their own progress."""
    return [
        {
            k: v.detach() if isinstance(v, torch.Tensor) else _plain(k, v)
            for k, v in group.items()
            if k not in ("params", "lr")  # the rate is a function of the step
        }
        for group in optimizer.param_groups
    ]


def load_groups(optimizer: torch.optim.Optimizer, saved: list[dict[str, Any]]) -> None:
    """The reverse of `save_groups`, into an optimizer of as many groups."""
    if len(saved) != len(optimizer.param_groups):
        raise StateError("The saved state belongs to another adapter: remove the run's folder.")
    for group, values in zip(optimizer.param_groups, saved, strict=True):
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                here = group.get(key)
                device = here.device if isinstance(here, torch.Tensor) else "cpu"
                group[key] = value.to(device, copy=True)
            else:
                group[key] = _restored(value)


def _is_compound(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and not isinstance(value, torch.nn.Parameter)
        and type(value) is not torch.Tensor
        and hasattr(value, "__tensor_flatten__")
    )


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [_plain(key, v) for v in value]
    raise StateError(
        f"The optimizer keeps {key!r} as {type(value).__name__}, which cannot be saved: choose "
        "another optimizer."
    )


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restored(v) for v in value)
    if isinstance(value, dict):
        return getattr(torch, value["dtype"])
    return value


def _compound(name: str, about: dict, saved: Mapping[str, Any], device) -> torch.Tensor:
    module, _, kind = about["class"].partition(":")
    if not module.startswith(_COMPOUND_MODULES) or not kind.isidentifier():
        raise StateError(f"The saved state holds a {about['class']}, which is not loaded.")
    made = getattr(importlib.import_module(module), kind)
    parts = {n: saved[f"{name}{_PARTS}{n}"].to(device, copy=True) for n in about["parts"]}
    context = [_restored(x) for x in about["context"]]
    shape, stride = torch.Size(about["shape"]), tuple(about["stride"])
    return made.__tensor_unflatten__(parts, context, shape, stride)


# ------------------------------------------------------------------------------------ in files


def pack_update(state: UpdateState) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An updater's state as (tensors by name, JSON values)."""
    tensors = {f"mean/{i}": t for i, t in enumerate(state.mean)}
    facts: dict[str, Any] = {"optimizer": state.optimizer, "updates": state.updates}
    for part, entries in (("memory", state.memory.items()), ("groups", enumerate(state.groups))):
        plain: dict[str, dict] = {}
        for index, values in entries:
            plain[str(index)] = {}
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{part}/{index}/{key}"] = value
                else:
                    plain[str(index)][key] = value
        facts[part] = plain
    return tensors, facts


def unpack_update(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> UpdateState:
    """The reverse of `pack_update`; other tensors are left alone."""
    parts = {p: {int(i): dict(v) for i, v in facts[p].items()} for p in ("memory", "groups")}
    mean: dict[int, torch.Tensor] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        index, _, key = rest.partition("/")
        if part == "mean":
            mean[int(index)] = tensor
        elif part in parts:
            parts[part].setdefault(int(index), {})[key] = tensor
    return UpdateState(
        optimizer=facts["optimizer"],
        memory=parts["memory"],
        groups=[parts["groups"][i] for i in sorted(parts["groups"])],
        mean=[mean[i] for i in sorted(mean)],
        updates=facts["updates"],
    )
