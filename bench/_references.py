"""What references cost while sampling; run as a program, in a process that holds a ComfyUI.

An SDXL UNet with random weights: full size where there is a GPU. On a CPU it has a fifth of the
width, which makes all that is not the UNet's own matrices look five times as dear as it is. The
cast of a scene (character, attire, background, each in its mask) is on for ours and off for the
peer; the second row compares keys and values kept for a run with projecting them in every step.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tools.comfyui import find_comfyui

from . import Row

ROOT = Path(__file__).resolve().parent.parent
RUNS = 5
STEPS = 3  # the first one is not counted
REFERENCES = 3
TOKENS = 16  # of one picture, as in the Plus files
CONTEXT = 2048


def reference_rows() -> Iterator[Row]:
    command = [sys.executable, "-m", "bench._references"]
    output = subprocess.run(
        command, check=True, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ).stdout
    yield from (Row(**json.loads(line)) for line in output.splitlines() if line.startswith("{"))


def _load_comfy_and_pack():
    sys.path.insert(0, str(find_comfyui()))
    import comfy.options

    comfy.options.args_parsing = False
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location("troupe_bench", ROOT / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["troupe_bench"] = pack
    spec.loader.exec_module(pack)
    return importlib.import_module("troupe_bench.nodes.runtime.ip_adapter")


def _fill(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)


def _model(width: int, dtype: torch.dtype):
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": width,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "context_dim": CONTEXT,
            "adm_in_channels": 2816,
            "num_classes": "sequential",
            "use_linear_in_transformer": True,
            "use_spatial_transformer": True,
            "legacy": False,
        }
    )
    config.set_inference_dtype(dtype, None)
    model = config.get_model({})
    _fill(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(
        model.eval().requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _with_cast(runtime, model, size: int):
    """The model with three references in soft masks that share the picture."""
    channels = [layer.channels for layer in runtime.attention_layers(model.model.diffusion_model)]
    dtype = torch.float16
    pairs = {
        f"{2 * i + 1}.to_{kind}_ip.weight": torch.randn(width, CONTEXT).mul(0.02).to(dtype)
        for i, width in enumerate(channels)
        for kind in "kv"
    }
    proj = {
        "proj.weight": torch.randn(TOKENS * CONTEXT, 1024).mul(0.02).to(dtype),
        "proj.bias": torch.zeros(TOKENS * CONTEXT, dtype=dtype),
        "norm.weight": torch.ones(CONTEXT, dtype=dtype),
        "norm.bias": torch.zeros(CONTEXT, dtype=dtype),
    }
    adapter = runtime.LoadedAdapter({"image_proj": proj, "ip_adapter": pairs}, "bench")
    masks = torch.rand(REFERENCES, 1, size, size).softmax(dim=0)
    for mask in masks:
        embeds = runtime.ReferenceEmbeds(torch.randn(1, 1024), torch.zeros(1, 1024), "image_embeds")
        model = runtime.apply_reference(model, adapter, None, None, mask=mask, embeds=embeds)
    return model


def _step_seconds(model, size: int) -> float:
    """Seconds of one step with CFG, the first one (loading, projecting) left out."""
    import comfy.samplers

    def prompt():
        return [[torch.randn(1, 77, CONTEXT), {"pooled_output": torch.randn(1, 1280)}]]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt(), prompt())
    guider.set_cfg(5.0)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    latent, noise = torch.zeros(1, 4, size // 8, size // 8), torch.randn(1, 4, size // 8, size // 8)
    marks: list[float] = []

    def mark(*_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    sampler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        guider.sample(noise, latent, sampler, sigmas, callback=mark, disable_pbar=True, seed=0)
    return (marks[-1] - marks[0]) / (len(marks) - 1)


def _alternate(*measures: Callable[[], float]) -> list[float]:
    """The median of each, called in turn, the first round not counted."""
    rounds = [[measure() for measure in measures] for _ in range(RUNS + 1)]
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def _measure() -> Iterator[Row]:
    runtime = _load_comfy_and_pack()
    run = importlib.import_module("troupe_bench.nodes.runtime.reference_run")
    gpu = torch.cuda.is_available()
    width, size, dtype = (320, 1024, torch.float16) if gpu else (64, 256, torch.float32)
    torch.manual_seed(0)
    with torch.inference_mode():
        plain = _model(width, dtype)
        cast = _with_cast(runtime, plain, size)

    def projecting() -> float:
        kept, run.CACHE_BYTES = run.CACHE_BYTES, 0
        try:
            return _step_seconds(cast, size)
        finally:
            run.CACHE_BYTES = kept

    ours, without, projected = _alternate(
        lambda: _step_seconds(cast, size), lambda: _step_seconds(plain, size), projecting
    )
    yield Row("conditioning.references_overhead", ours, "s/step", "no references", ours / without)
    name = "conditioning.references_vs_reprojection_overhead"
    yield Row(name, ours, "s/step", "projecting in every step", ours / projected)


if __name__ == "__main__":
    for row in _measure():
        print(json.dumps(row.as_dict()), flush=True)
