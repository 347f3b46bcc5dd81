"""Holds what a node is handed against its sockets, before the node runs.

ComfyUI compares links with sockets, and literals with widgets. Over its API any JSON value may
stand on any other socket, a wildcard output fits everything, and NaN is neither below a minimum
nor above a maximum. So no value of a socket of ours is taken for what it says it is.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from numbers import Real
from typing import Any

import torch
from comfy_api.v0_0_2 import io

from .types import CheckedOptions

Test = Callable[[Any], bool]


class SocketError(ValueError):
    """An input holds something else than its socket says."""


def _is_a(kind: type) -> Test:
    return lambda value: isinstance(value, kind)


def _is_ours(engine: str, name: str) -> Test:
    """By a class of an engine, looked up when a value comes: an engine may lack its packages."""

    def test(value: Any) -> bool:
        return isinstance(value, getattr(import_module(f"...{engine}", __package__), name))

    return test


def _is_mask(value: Any) -> bool:
    # a sum in float32 is finite exactly if every term is, as long as they are colours
    return isinstance(value, torch.Tensor) and math.isfinite(value.sum(dtype=torch.float32))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(t, torch.Tensor) for t in value.values())


def _is_no_literal(value: Any) -> bool:
    return not isinstance(value, str | int | float | bool | list | dict)


# socket -> what it holds, and what to do where it does not
SOCKETS: dict[str, tuple[Test, str]] = {
    "TROUPE_DATASET": (
        _is_ours("training", "Dataset"),
        "connect Load Dataset or Dataset from Images",
    ),
    "TROUPE_TRAINING_OPTIONS": (_is_a(CheckedOptions), "connect a node of training options"),
    "TROUPE_REGIONS": (_is_ours("conditioning", "RegionSet"), "connect Pose Regions"),
    "TROUPE_REFERENCE": (
        _is_ours("conditioning", "Reference"),
        "connect Character, Attire or Background",
    ),
    "TROUPE_SHOT": (_is_ours("video", "Shot"), "connect Shot"),
    "IPADAPTER": (_is_a(Mapping), "connect Load IP-Adapter"),
    "LORA_MODEL": (_is_tensors, "connect Train SDXL LoRA"),
    "IMAGE": (_is_a(torch.Tensor), "connect a node that gives pictures"),
    "MASK": (_is_mask, "connect a node that gives a mask of finite numbers"),
    "AUDIO": (_is_a(Mapping), "connect a node that gives sound"),
    "VIDEO": (lambda value: hasattr(value, "get_components"), "connect a node that gives a video"),
    **dict.fromkeys(
        ("MODEL", "CLIP", "VAE", "CLIP_VISION", "CONTROL_NET"), (_is_no_literal, "connect a loader")
    ),
    "INT": (_is_number, "give a finite number"),
    "FLOAT": (_is_number, "give a finite number"),
    "STRING": (_is_a(str), "give a text"),
}


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, whose `execute` refuses what does not belong on its sockets.

    Raises, when the node runs:
        SocketError: names the input, what came and what to connect.
    """
    execute = node.execute.__func__
    names = list(inspect.signature(node.execute).parameters)

    @functools.wraps(execute)
    def checked(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        schema = node.SCHEMA or node.GET_SCHEMA()
        for item in schema.inputs:
            for value in _values(given.get(item.id), item, schema.is_input_list):
                check(value, item)
        return execute(cls, *args, **kwargs)

    node.execute = classmethod(checked)
    return node


def _values(given: Any, item: io.Input, is_list: bool) -> Iterator[Any]:
    if isinstance(item, io.Autogrow.Input):
        if not isinstance(given, Mapping | None):
            raise SocketError(f"{item.id}: got {_named(given)}; connect its sockets one by one.")
        yield from (given or {}).values()
    elif is_list and isinstance(given, list):
        yield from given
    else:
        yield given


def check(value: Any, item: io.Input) -> None:
    """Hold one value against an input.

    Raises:
        SocketError: it is not what the input's socket says. None, what an optional input without a
            link holds, always passes.
    """
    if isinstance(item, io.Autogrow.Input):
        item = item.template.input
    tests = [SOCKETS[kind] for kind in item.get_io_type().split(",") if kind in SOCKETS]
    if value is None or not tests or any(test(value) for test, _ in tests):
        return
    wanted = " or ".join(remedy for _, remedy in tests)
    raise SocketError(f"{item.id}: got {_named(value)}; {wanted}.")


def _named(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return f"a value of type {type(value).__name__}"
