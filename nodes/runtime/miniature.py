"""The miniature in ComfyUI: its models, its checkpoint as a file for training, its cast.

Nothing lies in models/, and ComfyUI hears of nothing before Load Miniature runs. Then a checkpoint
file is made below output/troupe, for training, and kept under a name that changes with the weights;
and ComfyUI knows the architecture (see small_models), as it may load that file again.
"""

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.sd
import folder_paths

from ...conditioning.ip_adapter import split_adapter
from ...miniature import (
    PackError,
    controlnet_state,
    shipped_parts,
    version,
    write_checkpoint,
)
from ...training import keys
from .ip_adapter import LoadedAdapter
from .small_models import know_small_sdxl, load_small_vision

NAME = "troupe_miniature"  # what Load Miniature calls its checkpoint, for Train LoRA
CAST = Path(__file__).resolve().parents[2] / "workflows" / "input"
DANCES = 4


def checkpoint_file() -> Path:
    """The checkpoint as a file, which is made where it is missing.

    Raises:
        PackError: the shipped weights are damaged, or the file cannot be written.
    """
    output = Path(folder_paths.get_output_directory())
    path = output / "troupe" / "miniature" / f"checkpoint-{version()}.safetensors"
    if not path.is_file():
        try:
            write_checkpoint(path, shipped_parts(), keys)
        except OSError as error:
            raise PackError(
                f"The miniature's checkpoint cannot be written to {path.parent}: {error.strerror}."
            ) from None
    return path


def load_miniature() -> tuple[Any, ...]:
    """(model, clip, vae, control net, IP-Adapter, image encoder), as core's loaders make them.

    Raises:
        PackError: the shipped weights are damaged, or the checkpoint cannot be written.
    """
    path, parts = checkpoint_file(), shipped_parts()
    know_small_sdxl()
    embeddings = folder_paths.get_folder_paths("embeddings")
    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
        str(path), embedding_directory=embeddings
    )
    half = {name: value.half() for name, value in controlnet_state(parts, keys).items()}
    adapter = split_adapter({name: value.half() for name, value in parts["adapter"].items()})
    vision = {name: value.half() if value.is_floating_point() else value
              for name, value in parts["vision"].items()}  # fmt: skip
    return (
        model, clip, vae, comfy.controlnet.load_controlnet_state_dict(half),
        LoadedAdapter(adapter, NAME), load_small_vision(vision),
    )  # fmt: skip


def cast_file(name: str) -> Path:
    """A file or folder of the shipped cast.

    Raises:
        PackError: it is not there.
    """
    path = CAST / f"troupe_miniature{name}"
    if not path.exists():
        raise PackError(f"{path} is missing: install the pack again.")
    return path
