"""Runs a job while its disk fills up, then frees it; prints what was found. See test_safety.py.

    python full_disk.py ROOT FOLDER [mounted]

FOLDER/disk is a small file system of its own if `mounted`; else files cannot grow beyond 1 KiB
while the disk is "full".
"""

import io
import json
import resource
import shutil
import sys
from pathlib import Path

ROOT, FOLDER, MOUNTED = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["mounted"]
sys.path.insert(0, str(ROOT))

from training import Events, merge, parse_job, run_job  # noqa: E402

DISK = FOLDER / "disk"
BALLAST = DISK / "ballast"
FILL_AFTER = 3


class Watching(Events):
    """Fills the disk when step FILL_AFTER has been saved."""

    def emit(self, event: str, **fields) -> None:
        super().emit(event, **fields)
        if event == "checkpoint" and fields["step"] == FILL_AFTER:
            fill()


def fill() -> None:
    if not MOUNTED:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        return
    with open(BALLAST, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def free() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    BALLAST.unlink(missing_ok=True)


def steps() -> list[int]:
    return [int(p.stem[-8:]) for p in sorted(DISK.glob("*/*/states/*.safetensors"))]


def main() -> dict:
    values = json.loads((FOLDER / "job.json").read_text("utf-8"))
    values = merge(values, {"folders": {"runs": str(DISK / "runs")}, "saving": {"keep": 1}})
    stream = io.StringIO()
    found: dict = {}
    try:
        run_job(parse_job(values), Watching(stream))
    except Exception as error:
        found |= {"error": str(error), "kind": type(error).__name__}
    free()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    found["saved before"] = FILL_AFTER
    found["warned"] = next((e["message"] for e in events if e["event"] == "warning"), "")
    found["states after"] = steps()
    found["leftovers"] = [p.name for p in DISK.rglob("*.part")]
    stream = io.StringIO()
    outcome = run_job(parse_job(values), Events(stream))
    plan = json.loads(stream.getvalue().splitlines()[0])
    found |= {"resumed from": plan["resumed_from"], "finished": outcome.step}
    shutil.copyfile(outcome.lora, FOLDER / "lora.safetensors")
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
