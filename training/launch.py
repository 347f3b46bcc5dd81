"""Start the same job in several processes of this machine and stand for them as one.

Events of the first process pass through unchanged; a stop reaches it by its stdin, and the others
follow it. One that dies takes the rest with it: the states on disk are whole.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

from .events import Events
from .program import program_command

GRACE_SECONDS = 60  # for the others, after the first has left


def launch(arguments: Sequence[str], processes: int, events: Events, stop: threading.Event) -> int:
    """Run the command line in `processes` processes; returns the exit code of the first.

    Args:
        arguments: of the program, without those that say how many.
        events: where the first process' stdout goes.
        stop: set by whoever wants the run saved and ended.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
    }
    running: list[subprocess.Popen] = []
    try:
        for rank in range(processes):
            running.append(_start(arguments, rank, environment, events))
        return _watch(running, stop)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdin.close()


def _start(
    arguments: Sequence[str], rank: int, environment: dict[str, str], events: Events
) -> subprocess.Popen:
    return subprocess.Popen(
        program_command(*arguments, "--control", "stdin"),
        stdin=subprocess.PIPE,
        stdout=events if rank == 0 else subprocess.DEVNULL,
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        # Ctrl-C reaches us alone; we ask for the stop
        start_new_session=os.name != "nt",
        creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0,
    )


def _watch(running: list[subprocess.Popen], stop: threading.Event) -> int:
    first, asked = running[0], False
    while first.poll() is None:
        if stop.wait(0.1) and not asked:
            asked = True
            _ask_to_stop(first)
        if any(process.poll() not in (None, 0) for process in running[1:]):
            first.send_signal(signal.SIGTERM)  # it waits for one that is gone
            break
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return first.returncode


def _ask_to_stop(first: subprocess.Popen) -> None:
    try:
        first.stdin.write(b"stop\n")
        first.stdin.flush()
    except OSError:  # it has ended already
        pass


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
