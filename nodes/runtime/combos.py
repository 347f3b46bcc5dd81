"""Combos of files: where there is none, the list says what to do instead of showing nothing."""

from collections.abc import Sequence
from typing import Any

from .paths import PathError

_HINTS: set[str] = set()


def listed(options: Sequence[str], hint: str) -> list[str]:
    """The options of a combo; `hint` alone where there are none.

    Args:
        hint: what to do, as a value that no file has: "put pictures into input/NAME".
    """
    _HINTS.add(hint)
    return list(options) or [hint]


def is_hint(value: Any) -> bool:
    """Whether a combo's value is such a sentence."""
    return isinstance(value, str) and value in _HINTS


def refuse_hint(value: Any) -> None:
    """
    Raises:
        PathError: the value of a combo is the sentence that stands for an empty list.
    """
    if is_hint(value):
        sentence = f"{value[0].upper()}{value[1:]}"
        raise PathError(f"{sentence}, then press R on the canvas and choose it here.")
