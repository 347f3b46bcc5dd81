"""Pause a run without ending it: while the file `pause` lies in its folder, it holds no device.

The full state is saved first, so a paused run may be killed like any other. Removing the file lets
it go on where it was; nothing random depends on the clock, so the result is the same.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .adapter import Adapter
from .cache import Encoded
from .update import Updater

PAUSE_FILE = "pause"
POLL_SECONDS = 0.2


def is_asked(run_dir: Path) -> bool:
    """Whether the run shall pause."""
    return (run_dir / PAUSE_FILE).exists()


def wait(run_dir: Path, should_stop: Callable[[], bool]) -> None:
    """Return when the run may go on, or shall stop for good."""
    while is_asked(run_dir) and not should_stop():
        time.sleep(POLL_SECONDS)


class Parked:
    """Everything of a run that lies on a device, moved to main memory inside `with`."""

    def __init__(self, adapter: Adapter, updater: Updater, data: Encoded):
        self._modules = [adapter.unet, *(data.live.models if data.live else ())]
        self._updater = updater
        self._devices: list[torch.device] = []
        self._slots: list[tuple[Any, Any, torch.device]] = []

    def __enter__(self) -> "Parked":
        if streamer := getattr(self._modules[0], "streamer", None):
            streamer.forget()
        for module in self._modules:
            self._devices.append(next(module.parameters()).device)
            module.to("cpu")
        for slot, key, value in list(self._updater.slots()):
            if value.device.type != "cpu":
                self._slots.append((slot, key, value.device))
                slot[key] = value.cpu()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return self

    def __exit__(self, *_: object) -> None:
        for module, device in zip(self._modules, self._devices, strict=True):
            module.to(device)
        for slot, key, device in self._slots:
            slot[key] = slot[key].to(device)
