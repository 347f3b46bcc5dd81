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


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
