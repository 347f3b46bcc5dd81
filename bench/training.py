"""What a training step costs beside the bare forward, backward and optimizer on the same modules.

On the CPU with nano's sizes: 256 px, batch 1, rank 16, float32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.nano import build_nano
from tools.comfyui import find_comfyui
from training import parse_job
from training.adapter import add_adapter
from training.cache import encode
from training.checkpoint import load_unet
from training.loop import Loop
from training.plan import make_plan

from . import Row, alternate

SIDE = 256
RANK = 16


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(parse_job(_job(Path(folder))))
        data = encode(plan, [], lambda *_: None)
        adapter = add_adapter(load_unet(plan.checkpoint), plan.job)
        adapter.unet.train()
        loop = Loop(plan, adapter, data)
        numbers = iter(range(10_000))
        bare = _bare_step(plan, adapter.names, data.batch([0]))
        seconds, bare_seconds = alternate(lambda: loop.step(next(numbers)), bare, runs=11)
    name = "training.step_vs_bare_overhead"
    yield Row(name, seconds, "s", "diffusers + PEFT, no loop", seconds / bare_seconds)
    yield Row("training.img_per_s", 1 / seconds, "img/s")


def _job(folder: Path) -> dict:
    files = build_nano(folder / "models")
    pictures = folder / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "a.png")
    tokenizer = find_comfyui() / "comfy" / "sd1_tokenizer"
    return {
        "base": {"checkpoint": str(files.checkpoint), "tokenizer": str(tokenizer)},
        "dataset": {"folder": str(pictures), "trigger": "zoe"},
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
