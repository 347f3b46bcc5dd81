"""Films: how near we come to the bare encoder, how we compare with core, what memory it takes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from tools.inprocess import ROOT, import_comfyui
from video import (
    Pictures,
    Renderer,
    Shot,
    Timeline,
    assemble,
    camera_move,
    encode,
    make_transition,
    preset_named,
)

from . import Row, alternate
from . import _films as films
from ._films import CRF

WIDTH, HEIGHT = 1920, 1080


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for speed, count in (("medium", 24), ("veryfast", 48), ("ultrafast", 48)):
            yield _against_the_encoder(Path(folder), speed, count)
        yield _slideshow(Path(folder))
        yield from films.rows(Path(folder), _moving(24))
    yield _peak()


def _moving(count: int) -> np.ndarray:
    """Frames of a detailed picture that pans, with grain: what an encoder has to work for."""
    rng = np.random.default_rng(0)
    width, height = WIDTH + 8 * count, HEIGHT
    total = np.zeros((height, width, 3), np.float32)
    for octave in (8, 32, 128, 512):
        small = rng.integers(0, 256, (octave * height // width + 2, octave, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))
    total /= 4
    grain = rng.normal(0, 2, (HEIGHT, WIDTH, 3)).astype(np.float32)
    pans = (total[:, 8 * n : 8 * n + WIDTH] + np.roll(grain, 17 * n, 1) for n in range(count))
    return np.stack([frame.clip(0, 255).astype(np.uint8) for frame in pans])


def _against_the_encoder(folder: Path, speed: str, count: int) -> Row:
    """The same frames, once as a film of ours, once ready in the encoder's own pixel format."""
    film = assemble([Shot(Pictures(_moving(count)))], 24)
    return films.against_the_encoder(folder, f"video.{speed}_vs_encoder", lambda: film, speed)


def _stills_film(width: int, height: int, seconds: Fraction, zoom: bool = False) -> Timeline:
    moving = _moving(1)[0]
    shots = []
    for number in range(4):
        picture = np.ascontiguousarray(np.roll(moving, 300 * number, 1)[:height, :width])
        camera = camera_move("zoom_in", 0.15) if zoom and number == 2 else None
        shots.append(Shot(Pictures(picture[None]), seconds, camera))
    return assemble(shots, 24, transition=make_transition("crossfade", Fraction(1, 4)))


def _slideshow(folder: Path) -> Row:
    """Stills with crossfades at 720p: rendered and saved, against core saving finished frames."""
    import_comfyui(folder / "comfy")
    import torch
    from comfy_api.latest import InputImpl, Types

    film = _stills_film(1280, 720, Fraction(3, 2))
    with Renderer(film) as renderer:
        images = torch.stack([torch.from_numpy(frame).float() / 255 for frame in renderer.frames()])
    core = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images, frame_rate=Fraction(24))
    )
    preset = replace(preset_named("h264"), crf=CRF)
    ours, peer = alternate(
        lambda: encode(film, folder / "ours.mp4", preset),
        lambda: core.save_to(str(folder / "core.mp4"), crf=CRF),
    )
    value = film.frame_count / ours
    return Row("video.slideshow_vs_core", value, "frames/s", "core Save Video", peer / ours)


PEAK = """
import sys, threading
sys.path.insert(0, {root!r})
from fractions import Fraction
import psutil
from bench.video import _stills_film
from video import encode

film = _stills_film(1920, 1080, Fraction(5, 2), zoom=True)
encode(film.trimmed(0, 3), {target!r})  # libraries and their buffers
process, peak, done = psutil.Process(), 0, threading.Event()
before = process.memory_info().rss


def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, process.memory_info().rss)


watcher = threading.Thread(target=watch)
watcher.start()
encode(film, {target!r})
done.set()
watcher.join()
sys.stdout.write(str((peak - before) / 2**20))
"""


def _peak() -> Row:
    """What saving a 1080p film adds to the memory of its process, with the default preset."""
    with tempfile.TemporaryDirectory() as folder:
        script = PEAK.format(root=str(ROOT), target=str(Path(folder) / "film.mp4"))
        done = subprocess.run(
            [sys.executable, "-c", script], text=True, stdin=subprocess.DEVNULL, capture_output=True
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Row("video.peak_mb", float(done.stdout), "MB")
