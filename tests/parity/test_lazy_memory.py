"""Saving a long film needs no more memory than a short one: measured in a process of its own."""

import json
import subprocess
import sys

import pytest

from tools.inprocess import ROOT

LIMIT_MB = 300

SCRIPT = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
from tools.inprocess import import_comfyui, load_pack
import_comfyui(pathlib.Path({base!r}))
pack = load_pack()
import importlib, threading
import psutil, torch
nodes = importlib.import_module(pack.__name__ + ".nodes.video")


def memory():
    return psutil.Process().memory_info().rss / 2**20


peak, done = 0.0, threading.Event()


def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, memory())


def picture(seed):
    noise = torch.rand((1, 3, 18, 32), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (1080, 1920), mode="bicubic").movedim(1, 3)


with torch.inference_mode():
    shots = {{}}
    for number in range(5):
        camera = "zoom_in" if number == 2 else "none"
        shot = nodes.TroupeShot.execute(image=picture(number), duration=5.4, camera=camera)
        shots[f"shot{{number}}"] = shot.result[0]
    film = nodes.TroupeTimeline.execute(shots, 24.0, 0, 0, "crossfade", 0.5).result[0]
    part = film.as_trimmed({start}, {seconds})
    film.as_trimmed(0, 0.2).save_to({base!r} + "/warm.mp4")  # libraries and their buffers
    before = memory()
    watcher = threading.Thread(target=watch)
    watcher.start()
    part.write({base!r} + "/film.mp4", nodes.preset_named({preset!r}))
    done.set()
    watcher.join()
    print(json.dumps([part.get_frame_count(), peak - before]))
"""


@pytest.mark.parametrize(
    "preset, start, seconds, frames",
    [("h264_draft", 0, 25, 600), ("h264", 9, 4, 96)],  # the second: past all of the encoder's delay
)
def test_saving_1080p_adds_less_than_300_mb(tmp_path, preset, start, seconds, frames):
    script = SCRIPT.format(
        root=str(ROOT), base=str(tmp_path), preset=preset, start=start, seconds=seconds
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, added_mb = json.loads(done.stdout.splitlines()[-1])
    assert count == frames
    assert 0 < added_mb < LIMIT_MB
