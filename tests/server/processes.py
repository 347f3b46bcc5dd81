"""Processes that a ComfyUI has started."""

import psutil


def children_of(pid: int) -> list[int]:
    """Processes started by `pid` that run the training program.

    Below `pid`, not only by it: the python.exe of a Windows environment starts the real one, with
    the same words, and waits for it; then the inner one counts.
    """
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "training" in " ".join(child.cmdline()):
                found[child.pid] = child.ppid()
        except psutil.Error:  # it ended meanwhile
            continue
    return [pid for pid in found if pid not in found.values()]


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
