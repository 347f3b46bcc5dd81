"""The command line of training: one job, events as JSON lines on stdout, all else on stderr.

    python -m training JOB.yaml [section.field=value ...]

Commands for adapter files, each with --help: inspect, convert, merge, resize, extract.
`python -m training cache FOLDER --limit-gb 20` removes what was not used for longest.

Stop with Ctrl-C or SIGTERM: the step is finished and the full state saved; the same command goes
on from there. With `--control stdin` the line "stop", or the end of stdin (the parent process is
gone), does the same.

Exit codes: 0 the LoRA is written, 1 an internal error, 2 something in the job, the dataset or the
checkpoint must be changed, 3 stopped with the state saved, 4 out of memory.
"""

import argparse
import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import cache_cli, files_cli, plan_cli
from .errors import TrainingError
from .events import Events
from .packages import hide_broken, why_not
from .stdio import POLL_SECONDS, never_refuse, read_now
from .wholefile import in_words

if TYPE_CHECKING:
    from .job import TrainingJob

DONE, BROKEN, REFUSED, STOPPED, NO_MEMORY = 0, 1, 2, 3, 4

_COMMANDS = {
    **dict.fromkeys(files_cli.COMMANDS, files_cli.main),
    cache_cli.COMMAND: cache_cli.main,
    plan_cli.COMMAND: plan_cli.main,
}

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    never_refuse(sys.stdout)
    if arguments and arguments[0] in _COMMANDS:
        return _command(arguments)
    if arguments and arguments[0] == "run":  # the word may be left out
        arguments = arguments[1:]
    options = _parser().parse_intermixed_args(arguments)  # settings may follow an option
    if options.settings:
        _list_settings()
        return DONE
    if not options.job:
        _parser().error("give a job file, or --settings")
    events = Events(_claim_stdout())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # every file a run needs is named in its job: the hub is never asked
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    stop = threading.Event()
    _stop_on_signals(stop)
    if options.control == "stdin":
        threading.Thread(target=_stop_on_stdin, args=(stop,), daemon=True).start()
    count = [f"memory.processes={options.processes}"] if options.processes else []
    return _run(options.job, [*options.set, *count], events, stop)


def _command(arguments: Sequence[str]) -> int:
    try:
        if arguments[0] not in ("inspect", cache_cli.COMMAND):  # they build no models
            for sentence in hide_broken():
                sys.stderr.write(f"{sentence}\n")
        return _COMMANDS[arguments[0]](arguments)
    except Exception as error:
        if not (told := why_not(error)):
            raise
        sys.stderr.write(f"{told}\n")
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", nargs="?", type=Path, help="job file, .yaml or .json")
    parser.add_argument("set", nargs="*", metavar="section.field=value", help="change a setting")
    parser.add_argument("--settings", action="store_true", help="list every setting and leave")
    parser.add_argument("--control", choices=("signals", "stdin"), default="signals")
    parser.add_argument(
        "--processes", type=int, help="train with so many processes, as memory.processes"
    )
    return parser


def _list_settings() -> None:
    from .presets import PRESETS
    from .settings import all_settings

    lines = [f"preset: {p.name:12} {p.help}" for p in PRESETS.values()]
    for item in all_settings():
        bounds = [item.minimum, item.maximum]
        limits = "" if bounds == [None, None] else f" [{bounds[0]} .. {bounds[1]}]"
        choices = f" [{', '.join(map(str, item.choices))}]" if item.choices else ""
        lines.append(f"{item.path} = {item.default!r}{limits}{choices}  {item.description}")
    sys.stdout.write("\n".join(lines) + "\n")


def _claim_stdout() -> IO[str]:
    """The real stdout for events alone; whatever else is printed goes to stderr."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return open(descriptor, "w", encoding="utf-8", newline="\n")


def _stop_on_signals(stop: threading.Event) -> None:
    received = []

    def handle(number: int, _frame) -> None:
        received.append(number)
        if len(received) > 2:  # somebody insists: leave at once, the last saved state stays
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handle)


def _stop_on_stdin(stop: threading.Event, descriptor: int = 0) -> None:
    text = b""
    while not stop.is_set():
        data = read_now(descriptor)  # not sys.stdin: its lock would hang the interpreter's end
        if data is None:
            stop.wait(POLL_SECONDS)
            continue
        text += data
        if not data or b"stop" in text.splitlines():
            stop.set()


def with_tokenizer(job: "TrainingJob") -> "TrainingJob":
    """The job with a ComfyUI's tokenizer where it names none: of COMFYUI_PATH or around us."""
    around = list(Path(__file__).resolve().parents)[3:4]  # ComfyUI/custom_nodes/PACK/training
    homes = [os.environ.get("COMFYUI_PATH", ""), *around]
    for home in homes:
        folder = Path(home) / "comfy" / "sd1_tokenizer"
        if not job.base.tokenizer and home and folder.is_dir():
            base = job.base.model_copy(update={"tokenizer": str(folder)})
            job = job.model_copy(update={"base": base})
    return job


def _run(job_path: Path, assignments: Sequence[str], events: Events, stop: threading.Event) -> int:
    job = None
    try:
        from .launch import launch
        from .processes import find_team
        from .settings import load_job, override, read_job

        data = read_job(job_path)
        events.mark(job=hashlib.sha256(data).hexdigest())
        job = with_tokenizer(load_job(job_path, override(list(assignments)), data))
        if job.memory.processes > 1 and "WORLD_SIZE" not in os.environ:
            return launch([str(job_path), *assignments], job.memory.processes, events, stop)
        for sentence in hide_broken():
            if find_team().leads:
                events.emit("warning", message=sentence)
        from .run import run_job

        outcome = run_job(job, events, stop.is_set)
    except TrainingError as error:
        events.emit("error", kind=error.kind, message=str(error))
        return REFUSED
    except Exception as error:
        if told := why_not(error):
            log.exception("A package cannot be imported")
            events.emit("error", kind="package", message=told)
            return REFUSED
        if isinstance(error, OSError):
            log.exception("Reading or writing failed")
            said = f"Reading or writing failed: {in_words(error)}."
            events.emit("error", kind="disk", message=said)
            return REFUSED
        from .run import is_out_of_memory, out_of_memory_advice

        if is_out_of_memory(error):
            log.error("%s", error)
            events.emit("error", kind="memory", message=out_of_memory_advice(job))
            return NO_MEMORY
        log.exception("The run broke")
        events.emit("error", kind="internal", message=f"{type(error).__name__}: {error}")
        return BROKEN
    if not find_team().leads:  # only the first process ends with a file
        return DONE
    return DONE if outcome.lora else STOPPED
