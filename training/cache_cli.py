"""The command `python -m training cache FOLDER`: how large a cache is, and make it smaller."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import TrainingError, quoted
from .prune import KINDS, prune

COMMAND = "cache"
DONE, REFUSED = 0, 2


def main(arguments: Sequence[str]) -> int:
    """Run the command; one JSON line on stdout. Returns the exit code."""
    options = _parser().parse_args(list(arguments)[1:])
    try:
        found = _pruned(options.folder, options.limit_gb)
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write(json.dumps(found) + "\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m training {COMMAND}", description=__doc__)
    parser.add_argument("folder", type=Path, help="the cache, for example runs/.cache")
    parser.add_argument(
        "--limit-gb",
        type=float,
        default=None,
        help="remove what was not used for longest until the rest fits, 0 = everything; do not "
        "use it while a training runs. Without it nothing is removed.",
    )
    return parser


def _pruned(folder: Path, limit_gb: float | None) -> dict:
    if not any((folder / kind).is_dir() for kind in KINDS):
        names = ", ".join(f"{kind}/" for kind in KINDS)
        raise TrainingError(f"{quoted(folder)} is no cache: none of {names} is in it.")
    if limit_gb is not None and not 0 <= limit_gb < 1e9:
        raise TrainingError(f"--limit-gb {limit_gb}: give a number from 0 on.")
    limit = sys.maxsize if limit_gb is None else int(limit_gb * 2**30)
    result = prune(folder, limit, recent_seconds=0 if limit_gb is not None else 1e18)
    return {
        "removed": result.removed,
        "freed_mb": round(result.freed_bytes / 2**20, 1),
        "left": result.left,
        "left_mb": round(result.left_bytes / 2**20, 1),
    }
