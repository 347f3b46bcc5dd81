"""Making the next items in a thread while the current one is being used."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextvars import copy_context
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1
_END = object()


def ahead(items: Generator[T, None, None], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made in advance by a thread.

    What the thread raises is raised here. Closing this generator stops the thread, closes `items`
    inside it, and waits for both. Whatever FFmpeg and torch do there runs beside the caller, since
    both let go of the interpreter lock.
    """
    queue: Queue = Queue(depth)
    stop = threading.Event()

    def put(entry: tuple) -> bool:
        while not stop.is_set():
            try:
                queue.put(entry, timeout=POLL_SECONDS)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put((item, None)):
                    break
        except BaseException as raised:  # carried over to the caller, whatever it is
            error = raised
        try:
            items.close()
        finally:
            put((_END, error))

    run = copy_context().run  # who listens here also hears what is said there
    thread = threading.Thread(target=run, args=(work,), name="troupe-frames", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            try:
                queue.get_nowait()
            except Empty:
                pass
            thread.join(POLL_SECONDS)
