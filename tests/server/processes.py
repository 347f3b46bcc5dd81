"""Processes that a ComfyUI has started."""

import psutil


def children_of(pid: int) -> list[int]:
    """Processes started by `pid` that run the training program."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            if "training" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.Error:  # it ended meanwhile
            continue
    return found
