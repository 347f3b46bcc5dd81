"""How ComfyUI calls our errors: it shows module and class, and our module is a folder's path."""

from collections.abc import Iterator

from ...conditioning.errors import ConditioningError
from ...training.errors import TrainingError
from ...video import VideoError
from .guard import SocketError
from .loras import LoraError
from .paths import PathError
from .trainer import TrainingFailed

NAME = "troupe"
ROOTS = (
    ConditioningError,
    LoraError,
    PathError,
    SocketError,
    TrainingError,
    TrainingFailed,
    VideoError,
)


def name_errors() -> None:
    """Show them as "troupe.PathError"; in this process only, as other processes import them."""
    for root in ROOTS:
        for error in _family(root):
            error.__module__ = NAME


def _family(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for child in error.__subclasses__():
        yield from _family(child)
