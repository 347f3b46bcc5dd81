"""Runs the training program as a process of its own and never lets it outlive ComfyUI.

The child ends by itself when its stdin closes (that is what happens when ComfyUI dies), after
finishing the step and saving its state. Nothing here touches a model.
"""

import hashlib
import json
import logging
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management

from ...training import program_command
from .environment import clean_environment

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
SAVE_SECONDS = 900  # how long an interrupted child may take to finish its step and save
TAIL_LINES = 15

Event = dict[str, Any]


class TrainingFailed(RuntimeError):
    """The training process ended without a LoRA; the message says why."""


def free_models() -> None:
    """Unload ComfyUI's own models, so that the training process gets the memory."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def run_training(
    job: dict,
    folder: Path,
    name: str,
    on_event: Callable[[Event], None],
    check: Callable[[], None] = lambda: None,
) -> Event:
    """Train a job in a child process; returns its `done` event.

    Args:
        job: values of a TrainingJob, JSON-ready.
        folder: where NAME.log is kept.
        on_event: called in this thread for every event; may raise to stop the child.
        check: called several times a second; may raise to stop the child, too.

    Raises:
        TrainingFailed: the child ended without a LoRA.
        InterruptProcessingException: the user interrupted; the child has saved its state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{name}.log"
    data = json.dumps(job, indent=2).encode()
    # a file of its own: another ComfyUI with this output folder may train under the same name
    with (
        tempfile.TemporaryDirectory(prefix="troupe-job-", ignore_cleanup_errors=True) as own,
        open(log_path, "ab") as log_file,
    ):
        log_start = log_file.tell()
        job_path = Path(own) / "job.json"
        job_path.write_bytes(data)
        last, code = _follow(_start(job_path, log_file), on_event, check)
    if last.get("event") == "done":  # sent after the file was verified and renamed
        if last.get("job") != hashlib.sha256(data).hexdigest():
            raise TrainingFailed(f"The training process has done another job than {name}.")
        return last
    raise TrainingFailed(_reason(last, code, log_path, log_start))


def _follow(
    process: subprocess.Popen, on_event: Callable[[Event], None], check: Callable[[], None]
) -> tuple[Event, int]:
    """(the event that says how it ended, exit code) of a process, once it has ended."""
    last: Event = {}
    with process:
        events = _read_events(process)
        try:
            while (event := _next_event(events, check)) is not None:
                if event["event"] in ("done", "error", "stopped"):
                    last = event
                on_event(event)
        except BaseException:
            _stop(process, events)
            raise
        finally:
            _make_sure_it_ended(process)
    return last, process.returncode


def _start(job_path: Path, log_file) -> subprocess.Popen:
    flags = {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
    return subprocess.Popen(
        program_command(str(job_path), "--control", "stdin"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log_file,
        env=clean_environment(),
        **flags,
    )


def _read_events(process: subprocess.Popen) -> "queue.Queue[Event | None]":
    events: queue.Queue[Event | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.put(event)
        events.put(None)

    threading.Thread(target=read, daemon=True, name="troupe-training-events").start()
    return events


def _next_event(events: "queue.Queue[Event | None]", check: Callable[[], None]) -> Event | None:
    """The next event, None at the end; raises as soon as the user interrupts."""
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        check()
        try:
            return events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            pass


def _stop(process: subprocess.Popen, events: "queue.Queue[Event | None]") -> None:
    """Ask the child to save and leave, and wait; a second interrupt ends it at once."""
    log.info("Training is asked to save its state and stop.")
    try:
        process.stdin.write(b"stop\n")
        process.stdin.flush()
    except OSError:  # it has ended already
        return
    waited = 0.0
    while process.poll() is None and waited < SAVE_SECONDS:
        if comfy.model_management.processing_interrupted():
            comfy.model_management.interrupt_current_processing(False)
            log.warning("Interrupted again: training is ended without saving.")
            process.kill()
            return
        try:
            event = events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            waited += POLL_SECONDS
            continue
        if event and event["event"] == "stopped":
            where = f"step {event['step']} of {event['steps']}"
            log.info("Training stopped at %s; queue the same prompt to go on.", where)


def _make_sure_it_ended(process: subprocess.Popen) -> None:
    if process.poll() is None:
        try:
            process.wait(30)  # it only has to leave
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(last: Event, code: int, log_path: Path, log_start: int) -> str:
    if last.get("event") == "error" and last.get("kind") != "internal":
        return last["message"]
    if last.get("event") == "stopped":
        return (
            f"Training was stopped from outside at step {last['step']} of {last['steps']}; "
            "queue again to go on."
        )
    said = f" {last['message']}." if last.get("event") == "error" else ""
    return (
        f"Training ended with exit code {code} and no LoRA.{said} "
        f"The end of {log_path.name}:\n{_tail(log_path, log_start)}"
    )


def _tail(path: Path, start: int) -> str:
    with open(path, "rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", "replace").strip()
    return "\n".join(text.splitlines()[-TAIL_LINES:]) or "(empty)"
