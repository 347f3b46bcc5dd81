"""What training took, as the table of demo/README.md: `python -m demo.train.record`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runs import train_dir

STAGES = ("vae", "clip", "vision", "unet", "projector", "ip_adapter")
SPEEDS = ("pictures_per_s", "rate", "step", "seen", "time")  # said elsewhere, or by the code


def read_log(path: Path) -> list[dict[str, Any]]:
    """The reports of a stage, oldest first; a line cut short by a crash is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def hours(log: Sequence[dict[str, Any]]) -> float:
    """Time spent learning: what lies between two slices does not count, what was lost does."""
    total = seen = 0.0
    for entry in log:
        total += max(0.0, entry["seen"] - seen) / max(entry["pictures_per_s"], 1e-9)
        seen = entry["seen"]
    return total / 3600


def table(root: Path) -> str:
    """Markdown: a row for each stage that has run."""
    rows = [
        "| stage | steps | pictures | hours | device | last losses |",
        "|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        path = root / stage / "log.jsonl"
        log = read_log(path) if path.is_file() else []
        if not log:
            continue
        last = log[-1]
        numbers = {
            name: value for name, value in last.items()
            if isinstance(value, float) and name not in SPEEDS
        }  # fmt: skip
        said = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        rows.append(
            f"| {stage} | {last['step']:,} | {last['seen']:,} | {hours(log):.1f} "
            f"| {last['device']} | {said} |"
        )
    return "\n".join(rows)


def main() -> None:
    print(table(train_dir()))


if __name__ == "__main__":
    main()
