"""Writes nano: a miniature SDXL family in the file formats of the real models.

    files = build_nano(models_dir)      # or: python -m demo.nano MODELS_DIR

Weights are random but seeded: the same seed gives the same bytes. Layouts are those of the public
SDXL files (sgm checkpoint, cldm ControlNet, transformers CLIP vision, IP-Adapter's own), so
whatever loads nano loads them, and the other way round.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from miniature import modules, save_model
from miniature.complete import LATENT_SCALE, cldm_names
from miniature.modules import NanoConfig
from training import keys

from . import weights
from .weights import State


@dataclass(frozen=True)
class NanoFiles:
    checkpoint: Path
    controlnet: Path
    clip_vision: Path
    ip_adapter_plus: Path
    ip_adapter: Path


def nano_files(models_dir: Path) -> NanoFiles:
    """Where the files of nano lie below ComfyUI's models folder."""
    models_dir = Path(models_dir)
    return NanoFiles(
        checkpoint=models_dir / "checkpoints" / "nano_sdxl.safetensors",
        controlnet=models_dir / "controlnet" / "nano_openpose.safetensors",
        clip_vision=models_dir / "clip_vision" / "nano_clip_vision.safetensors",
        ip_adapter_plus=models_dir / "ipadapter" / "nano_ip_adapter_plus.safetensors",
        ip_adapter=models_dir / "ipadapter" / "nano_ip_adapter.safetensors",
    )


def build_nano(models_dir: Path, seed: int = 0, config: NanoConfig | None = None) -> NanoFiles:
    """Write all files of nano (87 MB, fp16) below `models_dir`; existing ones are replaced."""
    config = config or NanoConfig()
    files = nano_files(models_dir)
    side = config.resolution
    native = {"modelspec.resolution": f"{side}x{side}"}  # what a trainer takes as its default
    save_model(files.checkpoint, checkpoint_state(config, seed), native)
    save_model(files.controlnet, controlnet_state(config, seed))
    save_model(files.clip_vision, _random(modules.build_vision, config, seed)[0])
    save_model(files.ip_adapter_plus, ip_adapter_state(config, seed, plus=True))
    save_model(files.ip_adapter, ip_adapter_state(config, seed, plus=False))
    return files


def checkpoint_state(config: NanoConfig, seed: int) -> State:
    """UNet, both text encoders and TAESD under the names of an SDXL checkpoint."""
    unet, unet_config = _random(modules.build_unet, config, seed)
    last = len(config.channels) - 1, config.layers_per_block
    weights.calm_unet(unet, "up_blocks.{}.resnets.{}".format(*last))
    text_l, _ = _random(modules.build_text_l, config, seed)
    text_g, _ = _random(modules.build_text_g, config, seed)
    vae, _ = _random(modules.build_vae, config, seed)
    weights.carry_colours(vae)
    state = keys.to_sgm_checkpoint(unet, unet_config, text_l, text_g, vae)
    scale = {keys.PREFIXES["vae"] + name: value for name, value in LATENT_SCALE.items()}
    return state | scale


def controlnet_state(config: NanoConfig, seed: int) -> State:
    """A ControlNet under the names of the original (cldm) implementation."""
    state, net_config = _random(modules.build_controlnet, config, seed)
    weights.calm_controlnet(state)
    return cldm_names(state, net_config, keys)


def ip_adapter_state(config: NanoConfig, seed: int, plus: bool) -> State:
    """An IP-Adapter: `image_proj.*` and, per cross attention, `ip_adapter.N.to_{k,v}_ip.weight`.

    N counts all attentions in diffusers' order (down, up, middle), so cross attentions are odd.
    Layouts: tencent-ailab/IP-Adapter, resampler.py and ip_adapter.py.
    """
    shapes = _resampler_shapes(config) if plus else _projection_shapes(config)
    with torch.device("meta"):
        attentions = list(modules.build_unet(config).attn_processors)
    widths = [_width(name, config) for name in attentions]
    for number, name in enumerate(attentions):
        if ".attn2." in name:
            for kind in "kv":
                key = f"ip_adapter.{number}.to_{kind}_ip.weight"
                shapes[key] = (widths[number], config.context)
    return weights.random_state(shapes, "ip_plus" if plus else "ip_base", seed)


def _width(attention: str, config: NanoConfig) -> int:
    """Channels of the UNet level an attention belongs to, from its diffusers name."""
    if attention.startswith("mid_block"):
        return config.channels[-1]
    side, level = attention.split(".")[:2]
    return (config.channels if side == "down_blocks" else config.channels[::-1])[int(level)]


def _projection_shapes(config: NanoConfig) -> dict[str, tuple[int, ...]]:
    width = config.ip_base_tokens * config.context
    return {
        "image_proj.proj.weight": (width, config.vision_projection),
        "image_proj.proj.bias": (width,),
        "image_proj.norm.weight": (config.context,),
        "image_proj.norm.bias": (config.context,),
    }


def _resampler_shapes(config: NanoConfig) -> dict[str, tuple[int, ...]]:
    width, context = config.ip_width, config.context
    shapes = {
        "latents": (1, config.ip_tokens, width),
        "proj_in.weight": (width, config.vision_width),
        "proj_in.bias": (width,),
        "proj_out.weight": (context, width),
        "proj_out.bias": (context,),
        "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }
    for i in range(config.ip_depth):
        for norm in (f"layers.{i}.0.norm1", f"layers.{i}.0.norm2", f"layers.{i}.1.0"):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        shapes[f"layers.{i}.0.to_q.weight"] = (width, width)
        shapes[f"layers.{i}.0.to_kv.weight"] = (2 * width, width)
        shapes[f"layers.{i}.0.to_out.weight"] = (width, width)
        shapes[f"layers.{i}.1.1.weight"] = (4 * width, width)
        shapes[f"layers.{i}.1.3.weight"] = (width, 4 * width)
    return {f"image_proj.{name}": shape for name, shape in shapes.items()}


def _random(build: Callable, config: NanoConfig, seed: int) -> tuple[State, Any]:
    """Random weights for a module, by its own names, and the module's configuration."""
    with torch.device("meta"):
        module = build(config)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return weights.random_state(shapes, build.__name__, seed), module.config


if __name__ == "__main__":
    for path in vars(build_nano(Path(sys.argv[1]))).values():
        print(path)
