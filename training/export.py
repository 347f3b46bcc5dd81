"""Write the LoRA as ComfyUI and the other tools read it, and prove that it was written so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .checkpoint import Checkpoint
from .embedding import PREFIX
from .embedding_file import verify_bundled
from .errors import CheckpointError, ExportError, FileError
from .kinds import export_layer
from .layout import text_config_from_keys
from .lora_names import KOHYA, TEXT_ENCODERS, Names, text_names
from .lorafile import BUNDLE, file_tensors, read_safetensors
from .metadata import with_hashes
from .parts import change, kind_of, split_key
from .targets import UNET
from .tensorfile import serialize
from .wholefile import is_same, whole_file

if TYPE_CHECKING:
    from .job import AdapterSettings, TrainingJob

PARTS = {UNET: "unet", "text_encoder": "text_l", "text_encoder_2": "text_g"}


def lora_names(checkpoint: Checkpoint) -> dict[str, str]:
    """layer name -> key stem in a LoRA file, for every layer of this UNet.

    sd-scripts' scheme: `lora_unet_` and the sgm path with dots as underscores.
    """
    names = Names(checkpoint.unet_config)
    return {ours: names.stem(ours, KOHYA) for ours in names.sgm}


def adapter_layers(
    state: Mapping[str, torch.Tensor], settings: "AdapterSettings"
) -> dict[str, dict[str, torch.Tensor]]:
    """layer name -> parts of a LoRA file, from `Adapter.state()`."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        if key.startswith(PREFIX):  # of a new word, which is no layer
            continue
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, {})[name] = tensor.detach().cpu().float()
    return {name: export_layer(name, tensors, settings) for name, tensors in layers.items()}


def lora_tensors(
    state: Mapping[str, torch.Tensor], job: "TrainingJob", checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    """Tensors of a LoRA file from `Adapter.state()`.

    Raises:
        ExportError: a weight is not finite, also after rounding to `saving.precision`.
    """
    layers = adapter_layers(state, job.adapter)
    names = Names(checkpoint.unet_config)
    try:
        return file_tensors(layers, names, KOHYA, job.saving.precision)
    except FileError as error:
        raise ExportError(str(error)) from None


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
    layers = len({k.partition(".")[0] for k in tensors if not k.startswith(BUNDLE)})
    if is_same(path, data):  # written by an earlier run; it may be open elsewhere
        verify_lora(path, checkpoint, layers)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(data)
        verify_lora(part, checkpoint, layers)


def verify_lora(path: Path, checkpoint: Checkpoint, layers: int | None = None) -> int:
    """The number of layers of a LoRA file, after checking every key against the checkpoint.

    Raises:
        ExportError: unreadable, a key without a layer in the models, a matrix that does not fit
            its layer, a missing partner, or another number of layers than expected.
    """
    try:
        tensors, _ = read_safetensors(path)
    except FileError as error:
        raise ExportError(f"LoRA file {path.name!r} cannot be read back: {error}") from None
    shapes = layer_shapes(checkpoint)
    names = Names(checkpoint.unet_config)
    stems = {names.stem(name, KOHYA): name for name in shapes}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE):
            verify_bundled(key, tensor)
            continue
        stem, part = split_key(key)
        if stem not in stems or not part or key != f"{stem}.{part}":
            raise ExportError(
                f"LoRA key {key!r} belongs to no layer of the UNet or the text encoders: nothing "
                "loads it."
            )
        found.setdefault(stem, {})[part] = tensor
    for stem, parts in found.items():
        _verify_layer(stem, parts, shapes[stems[stem]])
    if layers is not None and len(found) != layers:
        raise ExportError(f"The LoRA file holds {len(found)} layers instead of {layers}.")
    return len(found)


def layer_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape of its weight, for every layer of the models that can be adapted."""
    weights = checkpoint.part_shapes("unet")
    sgm = Names(checkpoint.unet_config).sgm
    out = {ours: weights[f"{theirs}.weight"] for ours, theirs in sgm.items()}
    for model in TEXT_ENCODERS:
        try:
            config = text_config_from_keys(checkpoint.part_shapes(PARTS[model]), PARTS[model])
        except CheckpointError:  # a LoRA of the UNet alone needs none
            continue
        wide, inner = config["hidden_size"], config["intermediate_size"]
        known = {"mlp.fc1": (inner, wide), "mlp.fc2": (wide, inner)}
        for name in text_names(model)[: 6 * config["num_hidden_layers"]]:
            out[name] = next((s for end, s in known.items() if name.endswith(end)), (wide, wide))
    return out


def _verify_layer(stem: str, parts: dict[str, torch.Tensor], weight: tuple[int, ...]) -> None:
    if not kind_of(parts) or any(side in parts for side in ("magnitude", "diff_b")):
        raise ExportError(f"LoRA layer {stem!r} has the parts {sorted(parts)}: not a LoRA.")
    if kind_of(parts) == "lora" and set(parts) != {"lora_down.weight", "lora_up.weight", "alpha"}:
        raise ExportError(f"LoRA layer {stem!r} has the parts {sorted(parts)}: not a LoRA.")
    if not all(torch.isfinite(p).all() for p in parts.values()):
        raise ExportError(f"LoRA layer {stem!r} holds numbers that are not finite.")
    plain = {k: v if k == "alpha" else v.to("meta") for k, v in parts.items()}
    try:
        made = change(plain, torch.empty(weight, device="meta"))
        down = parts.get("lora_down.weight")
        fits = tuple(made.shape) == tuple(weight) and (
            down is None or tuple(down.shape[1:]) == tuple(weight[1:])
        )
    except FileError:
        fits = False
    if not fits:
        shapes = {k: tuple(v.shape) for k, v in parts.items() if k != "alpha"}
        raise ExportError(f"LoRA layer {stem!r} has shapes {shapes} for a weight of {weight}.")
