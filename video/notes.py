"""What is told to the user while a film is opened, rendered or written: damage, what was done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger(__name__)

_listening: ContextVar[tuple[list[str], ...]] = ContextVar("troupe_notes", default=())


def say(message: str) -> None:
    """Log a message and hand it to whoever listens; each listener gets it once."""
    logger.warning(message)
    for notes in _listening.get():
        if message not in notes:
            notes.append(message)


@contextmanager
def listening() -> Iterator[list[str]]:
    """A list that fills with what is said inside the block, also by threads of `ahead`."""
    notes: list[str] = []
    token = _listening.set((*_listening.get(), notes))
    try:
        yield notes
    finally:
        _listening.reset(token)
