"""A training step beside that of core's TrainLoraNode; run as a program that holds a ComfyUI.

Nano, 256 px, batch 1, rank 16, float32, AdamW, no activation computed twice; the same picture and
caption. Ours runs between two steps of core's, so both see the same minute of the machine.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import Row

ROOT = Path(__file__).resolve().parent.parent
STEPS = 13  # the first two are not counted
WARM = 2


def core_rows() -> Iterator[Row]:
    command = [sys.executable, "-m", "bench._core_step"]
    output = subprocess.run(
        command, check=True, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ).stdout
    yield from (Row(**json.loads(line)) for line in output.splitlines() if line.startswith("{"))


def main() -> None:
    from tools.inprocess import import_comfyui, load_pack

    with tempfile.TemporaryDirectory() as folder:
        comfy = import_comfyui(Path(folder) / "comfy")
        load_pack(ROOT / "demo" / "companion")
        from .training import make_loop

        loop, files = make_loop(Path(folder))
        for checkpointing, name in (
            (False, "training.step_vs_core"),
            (True, "training.step_vs_core_defaults"),
        ):
            ours, core = _measure(comfy, files, loop, checkpointing)
            row = Row(name, ours, "s", "core's TrainLoraNode", core / ours)
            print(json.dumps(row.as_dict()), flush=True)


def _measure(comfy, files, loop, checkpointing: bool) -> tuple[float, float]:
    """Median seconds of (our step, core's step)."""
    import torch
    from comfy_extras import nodes_train

    model, clip, vae = _load(files)
    with torch.no_grad():
        latent = {"samples": vae.encode(torch.rand(1, 256, 256, 3))}
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("zoe"))
    ours, core, numbers = [], [], iter(range(10_000))
    mark = [0.0]

    def after_step(_loss) -> None:
        core.append(time.perf_counter() - mark[0])
        with torch.inference_mode(False), torch.enable_grad():
            start = time.perf_counter()
            loop.step(next(numbers))
            ours.append(time.perf_counter() - start)
        mark[0] = time.perf_counter()

    class Timed(nodes_train.TrainSampler):
        def __init__(self, *arguments, loss_callback=None, **named):
            def both(loss):
                loss_callback(loss)
                after_step(loss)

            super().__init__(*arguments, loss_callback=both, **named)

    honest, nodes_train.TrainSampler = nodes_train.TrainSampler, Timed
    try:
        nodes_train.TrainLoraNode.execute(
            **{key: [value] for key, value in _settings(checkpointing).items()},
            model=[model],
            latents=[latent],
            positive=[positive],
        )
    finally:
        nodes_train.TrainSampler = honest
    return statistics.median(ours[WARM:]), statistics.median(core[WARM:])


def _load(files):
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(
        str(files.checkpoint), output_vae=True, output_clip=True
    )[:3]


def _settings(checkpointing: bool) -> dict:
    return {
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": STEPS,
        "learning_rate": 1e-4,
        "rank": 16,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
    }


if __name__ == "__main__":
    main()
