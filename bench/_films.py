"""Films from where users start, IMAGE floats and video files, against the encoder alone.

The peer gets the very frames of the film, ready in its own pixel format; everything else is equal:
encoder, its settings, its threads, the container. Beside it core's saver and a pipe to ffmpeg.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from video import (
    Renderer,
    Shot,
    Timeline,
    assemble,
    batch_of_tensor,
    camera_move,
    encode,
    make_transition,
    open_video,
    preset_named,
)
from video.encode import MAX_THREADS

from . import Row, alternate

CRF = 19.0
FPS = 24


def rows(folder: Path, frames: np.ndarray) -> Iterator[Row]:
    """`frames` are those of a moving picture, uint8 (count, height, width, 3)."""
    images = torch.from_numpy(frames).float() / 255
    stills = [images[n : n + 1] for n in range(3)]
    files = []
    for number, part in enumerate((frames, frames[::-1].copy())):
        files.append(str(folder / f"source{number}.mp4"))
        encode(assemble([Shot(batch_of_tensor(torch.from_numpy(part) / 255))], FPS), files[-1])
    kinds = {
        "image": lambda: assemble([Shot(batch_of_tensor(images))], FPS),
        "moves": lambda: _moves(stills),
        "crossfade": lambda: _crossfade(files),
        "downscale": lambda: assemble([Shot(open_video(files[0]))], FPS, 1280, 720),
    }
    for speed in ("medium", "ultrafast"):
        for kind, make in kinds.items():
            yield against_the_encoder(folder, f"video.{kind}_{speed}_vs_encoder", make, speed)
        yield from _peers(folder, images, speed)


def _moves(stills: list[torch.Tensor]) -> Timeline:
    """Three pictures under moving cameras, joined by soft wipes."""
    moves = [camera_move(name, 0.2) for name in ("zoom_in", "pan_right", "zoom_out")]
    wipe = make_transition("circle_open", 0.25, softness=0.2)
    half = Fraction(1, 2)
    shots = [Shot(batch_of_tensor(s), half, m) for s, m in zip(stills, moves, strict=True)]
    return assemble(shots, FPS, transition=wipe)


def _crossfade(files: list[str]) -> Timeline:
    """Two files of a second, half of which they show together."""
    fade = make_transition("crossfade", 0.5)
    return assemble([Shot(open_video(file)) for file in files], FPS, transition=fade)


def preset_of(speed: str):
    return replace(preset_named("h264"), crf=CRF, options=(("preset", speed),))


def against_the_encoder(folder: Path, name: str, make: Callable[[], Timeline], speed: str) -> Row:
    """From `make` to a saved file, against the encoder alone."""
    with Renderer(make()) as renderer:
        pictures = list(renderer.frames())
    ready = [
        av.VideoFrame.from_ndarray(p, format="rgb24").reformat(format="yuv420p") for p in pictures
    ]
    height, width = pictures[0].shape[:2]
    count = len(pictures)
    del pictures

    def bare() -> None:
        with av.open(str(folder / "bare.mp4"), "w") as output:
            stream = output.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"preset": speed, "crf": f"{CRF:g}"}
            stream.codec_context.thread_count = min(os.cpu_count() or 1, MAX_THREADS)
            for index, frame in enumerate(ready):
                frame.pts = index
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))

    preset = preset_of(speed)
    ours, peer = alternate(lambda: encode(make(), folder / "ours.mp4", preset), bare)
    return Row(name, count / ours, "frames/s", "bare x264", peer / ours)


def _peers(folder: Path, images: torch.Tensor, speed: str) -> Iterator[Row]:
    """The same IMAGE by a pipe to ffmpeg, and by core's saver, which has one speed: medium."""
    preset = preset_of(speed)
    count, height, width, _ = images.shape

    def ours() -> None:
        encode(assemble([Shot(batch_of_tensor(images))], FPS), folder / "ours.mp4", preset)

    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg:
        raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {FPS} -i - -pix_fmt yuv420p"
        coder = f"-c:v libx264 -preset {speed} -crf {CRF:g} -movflags +faststart"
        command = [ffmpeg, "-v", "error", "-y", *raw.split(), *coder.split()]

        def pipe() -> None:
            target = [*command, str(folder / "pipe.mp4")]
            with subprocess.Popen(target, stdin=subprocess.PIPE) as process:
                for image in images:
                    process.stdin.write((image * 255).round().clamp(0, 255).byte().numpy())

        mine, theirs = alternate(ours, pipe)
        name = f"video.image_{speed}_vs_ffmpeg_pipe"
        yield Row(name, count / mine, "frames/s", "pipe to ffmpeg", theirs / mine)
    if speed == "medium":
        from comfy_api.latest import InputImpl, Types

        parts = Types.VideoComponents(images=images, frame_rate=Fraction(FPS))
        core = InputImpl.VideoFromComponents(parts)
        mine, theirs = alternate(ours, lambda: core.save_to(str(folder / "core.mp4"), crf=CRF))
        yield Row("video.image_vs_core", count / mine, "frames/s", "core Save Video", theirs / mine)
