"""Full-size SDXL with random weights on an NVIDIA GPU: pictures per second, MFU, peak memory.

    python -m bench._mfu [--sd-scripts FOLDER] [--json FILE] [--small] [--steps N]

For batches of 1, 2, 4 and 8, nothing / something / everything computed twice, compiled or not, and
everything computed twice with its weights streamed from main memory beside the same without, all
beside diffusers' own training step (its example scripts' way: PEFT with autocast, checkpointing on
and off) and, if its folder is given, the network of sd-scripts on the same UNet. MFU counts what a
step has to compute: forward, and backward without gradients of frozen weights; work that is done
twice does not count. `--small` runs everything once on a CPU with a small UNet, as a check.
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from . import Row

BATCHES = (1, 2, 4, 8)
LEVELS = ("off", "selective", "on")
STEPS, WARM = 12, 4
RANK = 16
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "4090": 165e12, "3090": 71e12}
# Per picture at 1024 px: matrices and convolutions, and attention's own products, in FLOP
FORWARD_BASE, FORWARD_ATTENTION, FORWARD_LORA = 5.98e12, 0.78e12, 0.09e12
NEEDED = 2 * FORWARD_BASE + 3.5 * FORWARD_ATTENTION + 3 * FORWARD_LORA
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL = SDXL | {
    "block_out_channels": [64, 64, 128],
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [1, 1, 2],
    "cross_attention_dim": 64,
    "projection_class_embeddings_input_dim": 1536 + 64,
}


@dataclass(frozen=True)
class Setup:
    """What is measured: sizes and how often."""

    config: dict
    side: int
    device: torch.device
    dtype: torch.dtype
    steps: int

    @property
    def small(self) -> bool:
        return self.device.type == "cpu"


def mfu_rows() -> Iterator[Row]:
    """The rows for the GPU of this machine."""
    setup = Setup(SDXL, 1024, torch.device("cuda"), torch.bfloat16, STEPS)
    yield from _rows(setup, BATCHES, None)


def _rows(setup: Setup, batches, sd_scripts: Path | None) -> Iterator[Row]:
    peers = {(b, on): _peer(setup, b, on) for b in batches for on in (False, True)}
    for batch, level, compiled in itertools.product(batches, LEVELS, (False, True)):
        result = _try(lambda b=batch, lv=level, c=compiled: _ours(setup, b, lv, c))
        name = f"training.mfu.batch{batch}.twice_{level}" + (".compiled" if compiled else "")
        yield from _report(name, setup, batch, result, peers[batch, level != "off"])
    for batch, compiled in itertools.product(batches, (False, True)):
        here, away = (
            _try(lambda b=batch, c=compiled, s=s: _ours(setup, b, "on", c, s))
            for s in (False, True)
        )
        name = f"training.mfu.batch{batch}.streamed" + (".compiled" if compiled else "")
        yield from _report(name, setup, batch, away, here, "all weights on the device")
    if sd_scripts:
        for batch in batches:
            peer = _try(lambda b=batch: _sd_scripts(setup, b, sd_scripts))
            ours = _try(lambda b=batch: _ours(setup, b, "on", False))
            name = f"training.mfu.batch{batch}.vs_sd_scripts"
            yield from _report(name, setup, batch, ours, peer, "sd-scripts' network")


def _report(name, setup, batch, result, peer, label="diffusers + PEFT") -> Iterator[Row]:
    if result is None:
        yield Row(f"{name}.out_of_memory", batch, "images")
        return
    seconds, peak = result
    ratio = peer[0] / seconds if peer else None
    yield Row(f"{name}.img_per_s", batch / seconds, "img/s", label if peer else "", ratio)
    flops = _peak_flops(setup.device)
    if flops:
        share = NEEDED * (setup.side / 1024) ** 2 * batch / seconds / flops
        yield Row(name, 100 * share, "%")
    yield Row(f"{name}.peak_mb", peak, "MB")


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_name(device)
    return next((value for key, value in PEAKS.items() if key in card), None)


def _try(measure: Callable[[], tuple[float, float]]) -> tuple[float, float] | None:
    """The measurement, None where there is too little memory for it."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.compiler.reset()


def _unet(setup: Setup, device: torch.device | None = None) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    with device or setup.device:
        unet = UNet2DConditionModel(**setup.config).to(setup.dtype)
    return unet.requires_grad_(False)


def _inputs(setup: Setup, batch: int) -> tuple:
    side, device, dtype = setup.side // 8, setup.device, setup.dtype
    pooled = setup.config["projection_class_embeddings_input_dim"] - 6 * 256
    size = float(setup.side)
    conditions = {
        "text_embeds": torch.randn(batch, pooled, device=device, dtype=dtype),
        "time_ids": torch.tensor([[size, size, 0, 0, size, size]] * batch, device=device),
    }
    context = torch.randn(
        batch, 77, setup.config["cross_attention_dim"], device=device, dtype=dtype
    )
    latents = torch.randn(batch, 4, side, side, device=device)
    times = torch.randint(0, 1000, (batch,), device=device)
    return latents, times, context, conditions


def _measure(setup: Setup, batch: int, forward, parameters, optimizer) -> tuple[float, float]:
    """(median seconds of a step, peak MB)."""
    latents, times, context, conditions = _inputs(setup, batch)
    cuda, seconds = setup.device.type == "cuda", []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(setup.steps):
        start = time.perf_counter()
        noise = torch.randn_like(latents)
        predicted = forward((latents + noise).to(setup.dtype), times, context, conditions)
        torch.nn.functional.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
    return statistics.median(seconds[min(WARM, setup.steps - 1) :]), peak


def _call(unet) -> Callable:
    return lambda noisy, times, context, conditions: unet(
        noisy,
        times,
        encoder_hidden_states=context,
        added_cond_kwargs=conditions,
        return_dict=False,
    )[0]


def _ours(
    setup: Setup, batch: int, level: str, compiled: bool, streamed: bool = False
) -> tuple[float, float]:
    """The engine's adapter, plan and optimizer on a UNet of its own.

    Args:
        streamed: whether the weights of everything computed twice wait in main memory.
    """
    from training import parse_job
    from training.adapter import add_adapter
    from training.adapter_size import all_units, measure_adapter
    from training.compiled import compile_blocks
    from training.memory import Needs, apply_plan, choose
    from training.streaming import Streamer, pieces_of
    from training.update import Updater

    job = parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "adapter": {"rank": RANK},
            "batch": {"size": batch},
        }
    )
    unet = _unet(setup, torch.device("cpu") if streamed else None)
    loads = measure_adapter({"unet": unet}, job, setup.dtype).loads
    adapter = add_adapter(unet, job)
    unet.train()
    config = {"mid_block_type": "UNetMidBlock2DCrossAttn", **setup.config}
    walk = all_units({"unet": unet}, config, (setup.side, setup.side), batch, loads)
    plan = choose(Needs(walk, 0, 0, 2, 0), level, None)
    apply_plan(unet, plan)
    if streamed:
        empty = _unet(setup, torch.device("meta"))
        shapes = {name: tuple(p.shape) for name, p in empty.named_parameters()}
        pieces = pieces_of(config, shapes, lambda _: setup.dtype.itemsize)
        Streamer(adapter, [p.name for p in pieces if p.unit in plan.twice], setup.device)
    if compiled:
        # a CPU's compiler would take minutes: there only the tracing is checked
        compile_blocks(unet, "eager" if setup.small else "inductor")
    updater = Updater(adapter.groups(), job)
    return _measure(setup, batch, _call(unet), updater.parameters, updater.optimizer)


def _peer(setup: Setup, batch: int, checkpointing: bool) -> tuple[float, float] | None:
    """diffusers' example scripts: float32 LoRA under autocast, AdamW."""
    from peft import LoraConfig

    def measure() -> tuple[float, float]:
        unet = _unet(setup)
        names = ["to_k", "to_q", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj"]
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[*names, "ff.net.2"]))
        parameters = [p for p in unet.parameters() if p.requires_grad]
        for p in parameters:
            p.data = p.data.float()
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        call = _call(unet)

        def forward(*arguments):
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=not setup.small):
                return call(*arguments)

        return _measure(setup, batch, forward, parameters, optimizer)

    return _try(measure)


def _sd_scripts(setup: Setup, batch: int, folder: Path) -> tuple[float, float]:
    """sd-scripts' own SDXL UNet and LoRA network, checkpointing on, as its manual says."""
    sys.path.insert(0, str(folder))
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks.lora import create_network

    with torch.device(setup.device):
        unet = SdxlUNet2DConditionModel().to(setup.dtype)
    unet.requires_grad_(False)
    unet.set_use_sdpa(True)
    unet.enable_gradient_checkpointing()
    unet.train()
    network = create_network(1.0, RANK, RANK, None, [], unet).to(setup.device)
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def forward(noisy, times, context, conditions):
        sizes = conditions["time_ids"]
        vector = torch.cat([conditions["text_embeds"], _size_embedding(sizes)], dim=1)
        with torch.autocast(setup.device.type, torch.bfloat16):
            return unet(noisy, times, context, vector.to(setup.dtype))

    return _measure(setup, batch, forward, parameters, optimizer)


def _size_embedding(time_ids: torch.Tensor) -> torch.Tensor:
    from diffusers.models.embeddings import get_timestep_embedding

    flat = get_timestep_embedding(time_ids.flatten(), 256, True, 0)
    return flat.reshape(len(time_ids), -1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench._mfu", description=__doc__)
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument("--json", type=Path, help="append the rows as JSON lines to this file")
    parser.add_argument("--small", action="store_true", help="a check on the CPU")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.error("needs an NVIDIA GPU; --small checks the script on a CPU")
    setup, batches = Setup(SDXL, 1024, torch.device("cuda"), torch.bfloat16, options.steps), BATCHES
    if options.small:
        setup = Setup(SMALL, 64, torch.device("cpu"), torch.float32, options.steps)
        batches = BATCHES[:2]
    for row in _rows(setup, batches, options.sd_scripts):
        print(json.dumps(row.as_dict()), flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row.as_dict()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
