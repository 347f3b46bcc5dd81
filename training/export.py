"""Write the LoRA as ComfyUI and the other tools read it, and prove that it was written so."""

from collections.abc import Mapping
from pathlib import Path

import torch

from .checkpoint import Checkpoint
from .errors import ExportError
from .keys import PREFIXES, unet_module_table
from .metadata import with_hashes
from .tensorfile import serialize, write_bytes

PREFIX = "lora_unet_"
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def lora_names(checkpoint: Checkpoint) -> dict[str, str]:
    """diffusers layer name -> key stem in a LoRA file, for every layer of this UNet.

    sd-scripts' scheme: `lora_unet_` and the sgm path with dots as underscores. Underscores lose
    the word boundaries, so names are made from the table and never parsed back.
    """
    table = unet_module_table(checkpoint.unet_config)
    return {ours: PREFIX + sgm.replace(".", "_") for sgm, ours in table.items()}


def lora_tensors(
    state: Mapping[str, torch.Tensor], alpha: float, checkpoint: Checkpoint, precision: str
) -> dict[str, torch.Tensor]:
    """Tensors of a LoRA file from `Adapter.state()`.

    Args:
        precision: "fp16", "bf16" or "fp32".

    Raises:
        ExportError: a weight is not finite, also after rounding to `precision`.
    """
    names, out = lora_names(checkpoint), {}
    for key, tensor in state.items():
        layer, _, side = key.rpartition(".")
        value = tensor.detach().cpu().to(_TYPES[precision]).contiguous()
        if not torch.isfinite(value).all():
            wrong = "overflows" if torch.isfinite(tensor).all() else "is not finite"
            raise ExportError(
                f"The LoRA weight of {layer} {wrong} in {precision}: choose saving.precision bf16 "
                "or fp32, or train again with a lower learning rate."
            )
        out[f"{names[layer]}.lora_{side}.weight"] = value
        out[f"{names[layer]}.alpha"] = torch.tensor(alpha, dtype=_TYPES[precision])
    return out


def write_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    checkpoint: Checkpoint,
) -> None:
    """Write a LoRA file; it appears under its name only after its own re-reading.

    Raises:
        ExportError: the written file is not complete or holds keys ComfyUI would not load.
        OSError: the disk is full or not writable.
    """
    data = serialize(tensors, with_hashes(dict(tensors), dict(metadata)))
    check = path.with_name(f"{path.stem}.unchecked{path.suffix}")
    try:
        write_bytes(check, data)
        verify_lora(check, checkpoint, layers=sum(k.endswith(".alpha") for k in tensors))
        check.replace(path)
    finally:
        check.unlink(missing_ok=True)


def verify_lora(path: Path, checkpoint: Checkpoint, layers: int | None = None) -> int:
    """The number of layers of a LoRA file, after checking every key against the checkpoint.

    Raises:
        ExportError: unreadable, a key without a layer in the UNet, a matrix that does not fit its
            layer, a missing partner, or another number of layers than expected.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ExportError(f"LoRA file {path.name!r} cannot be read back: {error}.") from None
    weights = _layer_shapes(checkpoint)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        stem, _, role = key.partition(".")
        if stem not in weights:
            raise ExportError(
                f"LoRA key {key!r} belongs to no layer of the UNet: nothing loads it."
            )
        found.setdefault(stem, {})[role] = tensor
    for stem, parts in found.items():
        _verify_layer(stem, parts, weights[stem])
    if layers is not None and len(found) != layers:
        raise ExportError(f"The LoRA file holds {len(found)} layers instead of {layers}.")
    return len(found)


def _layer_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    shapes = checkpoint.part_shapes("unet")
    table = unet_module_table(checkpoint.unet_config)
    return {PREFIX + sgm.replace(".", "_"): shapes[f"{sgm}.weight"] for sgm in table}


def _verify_layer(stem: str, parts: dict[str, torch.Tensor], weight: tuple[int, ...]) -> None:
    if set(parts) != {"lora_down.weight", "lora_up.weight", "alpha"}:
        raise ExportError(f"LoRA layer {stem!r} has the parts {sorted(parts)}: not a LoRA.")
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    inputs, outputs = tuple(weight[1:]), weight[0]
    if tuple(down.shape[1:]) != inputs or up.shape[0] != outputs or down.shape[0] != up.shape[1]:
        raise ExportError(
            f"LoRA layer {stem!r} has shapes {tuple(down.shape)} and {tuple(up.shape)} for a "
            f"weight of {weight} at {PREFIXES['unet']!r}."
        )
    if not all(torch.isfinite(p).all() for p in parts.values()):
        raise ExportError(f"LoRA layer {stem!r} holds numbers that are not finite.")
