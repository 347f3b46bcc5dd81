"""Runs ComfyUI's main.py and ends with its starter: `python launch.py MAIN.PY ARGS...`.

Standard input is a pipe whose other end the starter holds. When the starter ends, in whatever way,
the pipe closes and this process ends too, with all it has started. No package of this repository is
imported here, and the repository is not on sys.path: what ComfyUI sees is what users have.
"""

import os
import runpy
import signal
import sys
import threading
import time


def _end_with_starter() -> None:
    while os.read(0, 1024):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)  # our own group: this process and its children
        time.sleep(5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_starter, daemon=True, name="starter-watch").start()
    main = os.path.abspath(sys.argv[1])
    sys.argv = [main, *sys.argv[2:]]
    sys.path[0] = os.path.dirname(main)
    runpy.run_path(main, run_name="__main__")
