"""Read and write adapter files of any spelling: layers by one name, their parts by one name."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .errors import FileError, quoted
from .lora_names import DIFFUSERS, KOHYA, Names, model_of
from .parts import DOWN, MID, UP, Parts, kind_of, rank_in, scale_of, split_key
from .tensorfile import serialize, write_bytes
from .wholefile import PART

BUNDLE = "bundle_emb."  # begins the keys of embeddings inside a LoRA file
BINDING = ("ss_base_model_version", "modelspec.architecture")  # say what a file is for
SCALED = ("lora", "dora", "loha", "lokr")  # kinds whose alpha is divided by the rank
DIFFUSERS_METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
MAX_CONFIG = 1 << 20  # characters
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class LoraFile:
    """An adapter file in memory.

    Attributes:
        layers: layer name -> parts; a layer no model is known to have keeps the file's own stem.
        foreign: stems of those layers.
        rest: tensors that are no part of an adapter.
        naming: how many layers are named in which style.
        diffusers_named: layers named as diffusers does.
        remarks: what was guessed while reading, one line each.
    """

    path: Path
    metadata: dict[str, str]
    layers: dict[str, Parts] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    rest: Parts = field(default_factory=dict)
    naming: Counter = field(default_factory=Counter)
    diffusers_named: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    @property
    def strange(self) -> list[str]:
        """Keys that are no part of an adapter, nor of an embedding bundled with it."""
        return sorted(k for k, tensor in self.rest.items() if not is_bundled(k, tensor))


def read_safetensors(path: Path) -> tuple[Parts, dict[str, str]]:
    """(tensors, metadata) of any .safetensors file.

    Raises:
        FileError: missing, of another format, truncated or damaged; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise FileError(f"File {quoted(path)} does not exist.")
    if path.suffix.lower() not in (".safetensors", ".sft") and not path.name.endswith(PART):
        raise FileError(
            f"File {path.name!r} is not a .safetensors file: pickled formats can run code, "
            "convert it first."
        )
    try:
        data = path.read_bytes()
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise FileError(
            f"File {path.name!r} is truncated or damaged ({error}): download it again."
        ) from None
    return tensors, {str(k): str(v) for k, v in metadata.items()}


def read_lora(path: Path, names: Names) -> LoraFile:
    """An adapter file, whatever program wrote it.

    Raises:
        FileError: unreadable, or it holds no adapter.
    """
    tensors, metadata = read_safetensors(path)
    file = LoraFile(Path(path), metadata)
    for key, tensor in tensors.items():
        stem, part = split_key(key)
        if not part:
            file.rest[key] = tensor
            continue
        name = names.known.get(stem)
        if (name or stem) not in file.layers:
            file.naming[names.style_of(stem, name)] += 1
            if name is None:
                file.foreign.append(stem)
            elif stem == names.stem(name, DIFFUSERS):
                file.diffusers_named.add(name)
        file.layers.setdefault(name or stem, {})[part] = tensor
    _take_alphas(file, peft=any(key.startswith("base_model.model.") for key in tensors))
    if not file.layers:
        raise FileError(
            f"File {Path(path).name!r} is no LoRA: its first key is "
            f"{next(iter(sorted(tensors)), 'missing')!r}."
        )
    return file


def _take_alphas(file: LoraFile, peft: bool) -> None:
    """diffusers writes alphas into the metadata, PEFT into a file beside: they become tensors."""
    about = file.metadata
    config = _peft_config(file.path) if peft else {}
    if config:
        about = {DIFFUSERS_METADATA: json.dumps({f"unet.{k}": v for k, v in config.items()})}
    elif peft and not any("alpha" in parts for parts in file.layers.values()):
        file.remarks.append(
            f"PEFT says alphas in {PEFT_CONFIG}, which is not beside the file: alpha = rank here"
        )
    for name, parts in file.layers.items():
        kind, rank = kind_of(parts), rank_in(parts)
        if "alpha" in parts or kind not in SCALED:
            continue
        full = kind == "lokr" and rank is None
        rank = int(config.get("r", 1)) if full else rank
        alpha = alpha_from_metadata(about, model_of(name), name, rank)
        if alpha is None:
            continue
        if full:  # PEFT scales these, too, where LyCORIS knows no rank to divide by
            parts["lokr_w1"] = parts["lokr_w1"].float() * (alpha / rank)
        else:
            parts["alpha"] = torch.tensor(alpha)


def _peft_config(path: Path) -> dict[str, Any]:
    """What PEFT's file beside `adapter_model.safetensors` says, in diffusers' words."""
    try:
        with open(path.with_name(PEFT_CONFIG), encoding="utf-8") as file:
            config = json.loads(file.read(MAX_CONFIG))
        config["lora_alpha"] = config.get("lora_alpha", config.get("alpha"))
        return config
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def alpha_from_metadata(
    metadata: Mapping[str, str], model: str, name: str, rank: int
) -> float | None:
    """A layer's alpha as `save_lora_weights` of diffusers notes it, None if it does not.

    With rsLoRA it is what readers have to divide by the rank to scale by alpha / sqrt(rank).

    Args:
        model: "unet", "text_encoder" or "text_encoder_2".
        name: of the layer, with or without the model's.
    """
    try:
        about = json.loads(metadata.get(DIFFUSERS_METADATA, "{}"))
        alpha = about.get(f"{model}.lora_alpha")
        for pattern, value in (about.get(f"{model}.alpha_pattern") or {}).items():
            if f".{name}".endswith(f".{pattern.lstrip('^')}"):
                alpha = value
        root = rank**0.5 if about.get(f"{model}.use_rslora") else 1.0
        return float(alpha) * root if isinstance(alpha, int | float) else None
    except (ValueError, AttributeError, RecursionError):
        return None


def is_bundled(key: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of a LoRA file holds vectors of an embedding: `bundle_emb.NAME.PART`."""
    return key.startswith(BUNDLE) and key.count(".") >= 2 and tensor.ndim in (1, 2)


# --------------------------------------------------------------------------------- writing


def file_tensors(
    layers: Mapping[str, Mapping[str, torch.Tensor]], names: Names, style: str, precision: str
) -> Parts:
    """Keys and tensors of a file.

    diffusers knows no alpha: there the scale is multiplied into the up matrix.

    Raises:
        FileError: a number is not finite or overflows, or a layer cannot be said in that style.
    """
    out = {}
    for name, parts in layers.items():
        if style == DIFFUSERS and kind_of(parts) != "lora":
            raise FileError(
                f"Layer {name!r} is {kind_of(parts) or 'incomplete'}, which diffusers does not "
                "load: turn the file into a plain LoRA first (resize)."
            )
        if name not in names.layers and style == DIFFUSERS:
            raise FileError(f"Layer {name!r} belongs to no SDXL model that is known here.")
        stem = names.stem(name, style) if name in names.layers else name
        if style == DIFFUSERS and "diff_b" in parts:
            raise FileError(f"Layer {name!r} changes a bias, which diffusers does not load.")
        if style == KOHYA and "magnitude" in parts:
            raise FileError(
                f"Layer {name!r} is PEFT's DoRA, which scales rows; ComfyUI would read it "
                "otherwise: turn it into a plain LoRA (resize --base CHECKPOINT)."
            )
        if style == KOHYA and DOWN in parts and "alpha" not in parts:
            parts = {**parts, "alpha": torch.tensor(float(len(parts[DOWN])))}
        for part, tensor in (_folded(parts) if style == DIFFUSERS else parts).items():
            value = tensor.detach().cpu()
            value = value.float() if value.dtype.itemsize < 2 else value  # float8 computes nothing
            rounded = value.to(TYPES[precision]).contiguous()
            if part == "alpha" and rounded != value:  # the scale of everything is not rounded
                rounded = value.float()
            if not torch.isfinite(rounded).all():
                wrong = "overflows" if torch.isfinite(value).all() else "is not finite"
                raise FileError(
                    f"Weight {part} of {name} {wrong} in {precision}: choose bf16 or fp32, or "
                    "train again with a lower learning rate."
                )
            out[f"{stem}.{_DIFFUSERS_PARTS[part] if style == DIFFUSERS else part}"] = rounded
    return out


_DIFFUSERS_PARTS = {DOWN: "lora_A.weight", UP: "lora_B.weight"}


def _folded(parts: Mapping[str, torch.Tensor]) -> Parts:
    if MID in parts:
        raise FileError("A three-matrix LoRA is not loaded by diffusers: resize it first.")
    return {DOWN: parts[DOWN], UP: parts[UP].float() * scale_of(parts)}


def write_lora_file(path: Path, tensors: Parts, metadata: Mapping[str, str]) -> None:
    """Write a file that appears only when complete."""
    write_bytes(Path(path), serialize(tensors, dict(metadata)))
