"""The LoRA once more in diffusers' and PEFT's names, for `load_lora_weights`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .bake import kept_overall, resize_layer
from .errors import ExportError, FileError
from .export import adapter_layers
from .lorafile import DIFFUSERS, file_tensors
from .metadata import with_hashes
from .parts import kind_of
from .tensorfile import serialize, write_changed
from .weights import Weights

if TYPE_CHECKING:
    from .plan import Plan

DIFFUSERS_FILE = "lora_diffusers.safetensors"


def write_diffusers(
    path: Path, state: Mapping[str, torch.Tensor], plan: "Plan", metadata: Mapping[str, str]
) -> float:
    """Write `Adapter.state()` as a plain LoRA in diffusers' names; returns the share it holds.

    LoRA, rsLoRA and PiSSA are written exactly. The other kinds are brought to plain LoRA of
    `saving.diffusers_rank`; metadata "troupe.baked" says how much of the change is kept.

    Raises:
        ExportError: a number does not fit the precision.
        OSError: the disk is full or not writable.
    """
    saving = plan.job.saving
    layers = adapter_layers(state, plan.job.adapter)
    weights = Weights(plan.checkpoint)
    baked = {}
    for name, parts in layers.items():
        if kind_of(parts) != "lora":
            baked[name] = resize_layer(name, parts, saving.diffusers_rank, None, weights.get(name))
    kept = kept_overall(baked.values())
    made = {name: baked[name].parts if name in baked else layers[name] for name in layers}
    try:
        tensors = file_tensors(made, weights.names, DIFFUSERS, saving.precision)
    except FileError as error:
        raise ExportError(str(error)) from None
    metadata = dict(metadata)
    if baked:
        metadata["troupe.baked"] = (
            f"{plan.job.adapter.kind} as LoRA of rank {saving.diffusers_rank}: every layer keeps "
            f"at least {kept:.4f} of the squared change"
        )
    write_changed(path, serialize(tensors, with_hashes(tensors, {**metadata, "format": "pt"})))
    return kept
