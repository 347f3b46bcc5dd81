"""What a training step costs: beside the bare forward, backward and optimizer on the same modules,
beside core's TrainLoraNode, and, where there is an NVIDIA GPU, at SDXL's full size.

On the CPU with nano's sizes: 256 px, batch 1, rank 16, float32.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.nano import build_nano
from tools.comfyui import find_comfyui
from training import merge, parse_job
from training.adapter import add_adapter
from training.cache import encode
from training.checkpoint import load_unet
from training.loop import Loop
from training.plan import make_plan

from . import Row, alternate
from ._core_step import core_rows
from ._mfu import mfu_rows

ROOT = Path(__file__).resolve().parent.parent
SIDE = 256
RANK = 16


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        loop, _ = make_loop(Path(folder))
        numbers = iter(range(10_000))
        bare = _bare_step(loop._plan, loop._adapter.names, loop._data.batch([0]))
        seconds, bare_seconds = alternate(lambda: loop.step(next(numbers)), bare, runs=11)
        name = "training.step_vs_bare_overhead"
        yield Row(name, seconds, "s", "diffusers + PEFT, no loop", seconds / bare_seconds)
        yield Row("training.img_per_s", 1 / seconds, "img/s")
        yield from _whole_run(Path(folder) / "whole")
    yield from core_rows()
    if torch.cuda.is_available():
        yield from mfu_rows()


def make_loop(folder: Path):
    """(a loop that is ready to step, the files of nano)."""
    files = build_nano(folder / "models")
    plan = make_plan(parse_job(_job(folder, files)))
    data = encode(plan, [], lambda *_: None)
    adapter = add_adapter(load_unet(plan.checkpoint), plan.job)
    adapter.unet.train()
    return Loop(plan, adapter, data), files


def _whole_run(folder: Path) -> Iterator[Row]:
    """Start-up to the first step, pictures encoded per second, and the peak, of a real process."""
    files = build_nano(folder / "models")
    job = merge(_job(folder, files, pictures=24), {"schedule": {"steps": 5}})
    job = merge(job, {"samples": {"at_end": False}})
    path = folder / "job.json"
    path.write_text(json.dumps(job), "utf-8")
    command = [sys.executable, str(ROOT / "training" / "__main__.py"), str(path)]
    begin = time.time()
    output = subprocess.run(
        command, check=True, encoding="utf-8", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ).stdout
    events = [json.loads(line) for line in output.splitlines()]
    steps = [e for e in events if e["event"] == "step"]
    latents = [e for e in events if e["event"] == "phase" and e["name"] == "latents"]
    first, last = latents[1], latents[-1]  # the first picture loads the VAE
    speed = (last["done"] - first["done"]) / (last["time"] - first["time"])
    yield Row("training.start_to_first_step_s", steps[0]["time"] - begin, "s")
    yield Row("training.cache_img_per_s", speed, "img/s")
    yield Row("training.peak_mb", steps[-1]["memory_mb"], "MB")


def _job(folder: Path, files, pictures: int = 1) -> dict:
    shown = folder / "pictures"
    shown.mkdir()
    for i in range(pictures):
        noise = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(shown / f"{i}.png")
    tokenizer = find_comfyui() / "comfy" / "sd1_tokenizer"
    return {
        "base": {"checkpoint": str(files.checkpoint), "tokenizer": str(tokenizer)},
        "dataset": {"folder": str(shown), "trigger": "zoe"},
        "adapter": {"rank": RANK},
        "buckets": {"resolution": SIDE},
        "schedule": {"steps": 10_000},
        "memory": {"device": "cpu"},
        "folders": {"runs": str(folder / "runs")},
    }


def _bare_step(plan, names: list[str], batch):
    """One step as a training script would write it, without anything around it."""
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    unet = load_unet(plan.checkpoint)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def step() -> None:
        noise = torch.randn_like(batch.latents)
        times = torch.randint(0, 1000, (len(noise),))
        predicted = unet(
            schedule.add_noise(batch.latents, noise, times),
            times,
            encoder_hidden_states=batch.context,
            added_cond_kwargs={"text_embeds": batch.pooled, "time_ids": batch.time_ids},
        ).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
