"""The shipped weights as complete models, under the names that the real files have."""

import errno
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import modules, packs
from .modules import NanoConfig
from .packs import FOLDER, State
from .widen import expand, widen_controlnet, widen_vae

SHIPPED = NanoConfig(
    resolution=128,  # 16 x 16 latents: what a CPU could be trained at
    channels=(64, 64, 128),
    depths=(0, 1, 1),
    layers_per_block=2,
    text_width=64,
    text_layers=4,
    vision_width=128,
    vision_layers=4,
    vision_projection=64,
    patch=16,
    image_size=128,
    ip_tokens=16,
    ip_width=128,
    ip_depth=2,
)
# ComfyUI's TAESD keeps SDXL's latent scale as tensors of the checkpoint (0.13025, no shift).
LATENT_SCALE = {"vae_scale": torch.tensor(0.13025), "vae_shift": torch.tensor(0.0)}
_TABLE = "embeddings.token_embedding.weight"


@dataclass(frozen=True)
class MiniatureFiles:
    checkpoint: Path
    controlnet: Path
    clip_vision: Path
    ip_adapter_plus: Path


def miniature_files(models_dir: Path) -> MiniatureFiles:
    """The miniature's files below ComfyUI's models folder, where somebody wants it as files."""
    models_dir = Path(models_dir)
    return MiniatureFiles(
        checkpoint=models_dir / "checkpoints" / "miniature_sdxl.safetensors",
        controlnet=models_dir / "controlnet" / "miniature_openpose.safetensors",
        clip_vision=models_dir / "clip_vision" / "miniature_clip_vision.safetensors",
        ip_adapter_plus=models_dir / "ipadapter" / "miniature_ip_adapter_plus.safetensors",
    )


def shipped_parts(folder: Path = FOLDER) -> dict[str, State]:
    """Every module's shipped weights in small form, float32, by module.

    Raises:
        PackError: weights are missing, or not those of this version.
    """
    parts = {}
    for pack in packs.PACKS:
        packs.check(pack, folder)
        parts |= {module: packs.read_module(stage, module, folder) for stage, module in pack.parts}
    return parts


def checkpoint_state(
    parts: Mapping[str, State], keys: ModuleType, config: NanoConfig = SHIPPED
) -> State:
    """UNet, both text encoders and TAESD under the names of an SDXL checkpoint."""
    texts = []
    for part in ("text_l", "text_g"):
        name = next(key for key in parts[part] if key.endswith(_TABLE))
        texts.append({**parts[part], name: expand(parts[part][name], packs.read_tokens())})
    vae = widen_vae(parts["vae"], _on_meta(modules.build_vae, config).state_dict())
    unet_config = _on_meta(modules.build_unet, config).config
    sgm = keys.to_sgm_checkpoint(parts["unet"], unet_config, *texts, vae)
    return sgm | {keys.PREFIXES["vae"] + name: value for name, value in LATENT_SCALE.items()}


def controlnet_state(
    parts: Mapping[str, State], keys: ModuleType, config: NanoConfig = SHIPPED
) -> State:
    """The openpose ControlNet under the names of the original (cldm) implementation."""
    full = _on_meta(modules.build_controlnet, config)
    wide = widen_controlnet(parts["controlnet"], full.state_dict())
    return cldm_names(wide, full.config, keys)


def cldm_names(state: State, config: Mapping[str, Any], keys: ModuleType) -> State:
    """A ControlNet's state under cldm's names: the encoder half of the UNet, and the hint."""
    up = [kind.replace("Down", "Up") for kind in reversed(config["down_block_types"])]
    unet = keys.unet_key_table({**config, "up_block_types": up})
    table = [(sgm, name) for sgm, name in unet.items() if name in state]
    embedding = "controlnet_cond_embedding"
    count = 2 * (len(config["conditioning_embedding_out_channels"]) - 1)
    layers = ["conv_in", *(f"blocks.{i}" for i in range(count)), "conv_out"]
    pairs = [(f"input_hint_block.{2 * i}", f"{embedding}.{n}") for i, n in enumerate(layers)]
    zeros = sum(name.startswith("controlnet_down_blocks") for name in state) // 2
    pairs += [(f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}") for i in range(zeros)]
    pairs.append(("middle_block_out.0", "controlnet_mid_block"))
    table += [(f"{a}.{kind}", f"{b}.{kind}") for a, b in pairs for kind in ("weight", "bias")]
    return {f"control_model.{ours}": state[name] for ours, name in table}


def write_checkpoint(
    path: Path, parts: Mapping[str, State], keys: ModuleType, config: NanoConfig = SHIPPED
) -> None:
    """Write the checkpoint as a file, with the resolution that a trainer takes as its default."""
    native = {"modelspec.resolution": f"{config.resolution}x{config.resolution}"}
    save_model(path, checkpoint_state(parts, keys, config), native)


def save_model(path: Path, state: State, metadata: dict[str, str] | None = None) -> None:
    """Write a model in float16; the file appears when it is complete.

    Raises:
        OSError: it cannot be written; `strerror` says why.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    halved = {k: v.half().contiguous() if v.ndim else v for k, v in state.items()}
    try:
        save_file(halved, part, metadata)
        os.replace(part, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from None
    finally:
        part.unlink(missing_ok=True)


def _on_meta(build: Callable[[NanoConfig], Any], config: NanoConfig) -> Any:
    """A module without memory, for its names, shapes and configuration."""
    with torch.device("meta"):
        return build(config)
