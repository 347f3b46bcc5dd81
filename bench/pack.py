"""What the pack adds to ComfyUI's start: import time of the pack over an imported core."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.comfyui import find_comfyui

from . import Row

PACK = Path(__file__).resolve().parent.parent

_PROBE = """
import sys, time, importlib.util
sys.path.insert(0, {comfy!r})
sys.argv = ['main.py', '--cpu']
import comfy.options; comfy.options.enable_args_parsing()
import nodes, comfy_api.v0_0_2, comfy.sd, comfy.samplers
import comfy_extras.nodes_video, comfy_extras.nodes_dataset, comfy_extras.nodes_train
start = time.perf_counter()
spec = importlib.util.spec_from_file_location('troupe_probe', {pack!r} + '/__init__.py',
                                              submodule_search_locations=[{pack!r}])
module = importlib.util.module_from_spec(spec)
sys.modules['troupe_probe'] = module
spec.loader.exec_module(module)
print(time.perf_counter() - start)
"""


def rows(runs: int = 5) -> Iterator[Row]:
    script = _PROBE.format(comfy=str(find_comfyui()), pack=str(PACK))
    command = [sys.executable, "-c", script]
    seconds = []
    for _ in range(runs + 1):  # the first run fills the file cache and is not counted
        output = subprocess.run(
            command, check=True, text=True, stdin=subprocess.DEVNULL, capture_output=True
        ).stdout
        seconds.append(float(output.strip().splitlines()[-1]))
    yield Row("pack.import_s", statistics.median(seconds[1:]), "s")
