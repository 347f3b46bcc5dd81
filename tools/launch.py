"""Runs ComfyUI's main.py and ends with its starter: `python launch.py MAIN.PY ARGS...`.

Standard input is a pipe whose other end the starter holds. When the starter ends, in whatever way,
the pipe closes and this process ends too, with all it has started. No package of this repository is
imported here, and the repository is not on sys.path: what ComfyUI sees is what users have.
"""

import importlib.util
import os
import runpy
import signal
import sys
import threading
import time

STDIO = os.path.join(os.path.dirname(__file__), "..", "training", "stdio.py")


def _load_stdio():
    spec = importlib.util.spec_from_file_location("troupe_stdio", STDIO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with_starter(stdio) -> None:
    while (said := stdio.read_now(0)) != b"":
        if said is None:
            time.sleep(stdio.POLL_SECONDS)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)  # our own group: this process and its children
        time.sleep(5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_starter, args=(_load_stdio(),), daemon=True).start()
    main = os.path.abspath(sys.argv[1])
    sys.argv = [main, *sys.argv[2:]]
    sys.path[0] = os.path.dirname(main)
    runpy.run_path(main, run_name="__main__")
