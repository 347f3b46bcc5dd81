"""Runs the benchmarks of one area, or of all of them."""

import argparse
import importlib
import json
import pkgutil
import platform
import sys
from pathlib import Path

from training.stdio import never_refuse

from . import __path__ as _path


def areas() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(_path) if not m.name.startswith("_"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("area", choices=[*areas(), "all"])
    parser.add_argument("--json", type=Path, help="also append the rows as JSON lines to this file")
    options = parser.parse_args()
    never_refuse(sys.stdout)
    chosen = areas() if options.area == "all" else [options.area]
    for area in chosen:
        for row in importlib.import_module(f"bench.{area}").rows():
            ratio = "" if row.ratio is None else f"   ratio {row.ratio:.3f} vs {row.peer}"
            print(f"{row.name:<48} {row.value:>10.4g} {row.unit:<8}{ratio}", flush=True)
            if options.json:
                line = row.as_dict() | {"machine": platform.processor() or platform.machine()}
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
