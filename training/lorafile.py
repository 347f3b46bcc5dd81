"""Read and write adapter files of any spelling: layers by one name, their parts by one name.

Parts of a layer: `lora_down.weight`, `lora_up.weight`, `lora_mid.weight`, `alpha`, `dora_scale`,
`hada_*`, `lokr_*`, `oft_blocks`, `rescale`, `diff`, `diff_b`. `change` says what they do to a
weight, as ComfyUI computes it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .errors import FileError
from .lora_names import DIFFUSERS, KOHYA, Names, model_of
from .masters import rotation
from .tensorfile import serialize, write_bytes

BUNDLE = "bundle_emb."  # begins the keys of embeddings inside a LoRA file
BINDING = ("ss_base_model_version", "modelspec.architecture")  # say what a file is for
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"
# ending of a key -> part; longer ones first, so that none hides another
_ENDINGS = {
    ".lora_A.default.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora_mid.weight": MID,
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A": DOWN,
    ".lora_B": UP,
} | {
    f".{part}": part
    for part in (
        *("alpha", "dora_scale", "diff", "diff_b", "oft_blocks", "rescale"),
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    )
}
Parts = dict[str, torch.Tensor]


@dataclass
class LoraFile:
    """An adapter file in memory.

    Attributes:
        layers: layer name -> parts; a layer no model is known to have keeps the file's own stem.
        foreign: stems of those layers.
        rest: tensors that are no part of an adapter.
        naming: how many layers are named in which style.
        diffusers_named: layers named as diffusers does.
    """

    path: Path
    metadata: dict[str, str]
    layers: dict[str, Parts] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    rest: Parts = field(default_factory=dict)
    naming: Counter = field(default_factory=Counter)
    diffusers_named: set[str] = field(default_factory=set)

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
        raise FileError(f"File {str(path)!r} does not exist.")
    if path.suffix.lower() not in (".safetensors", ".sft"):
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
    _take_alphas(file)
    if not file.layers:
        raise FileError(
            f"File {Path(path).name!r} is no LoRA: its first key is "
            f"{next(iter(sorted(tensors)), 'missing')!r}."
        )
    return file


def _take_alphas(file: LoraFile) -> None:
    """diffusers and PEFT write alphas into the metadata instead of tensors."""
    for name, parts in file.layers.items():
        if kind_of(parts) == "lora" and "alpha" not in parts:
            model = model_of(name)
            alpha = alpha_from_metadata(file.metadata, model, name, len(parts[DOWN]))
            if alpha is not None:
                parts["alpha"] = torch.tensor(alpha)


def alpha_from_metadata(
    metadata: Mapping[str, str], model: str, name: str, rank: int
) -> float | None:
    """A layer's alpha as `save_lora_weights` of diffusers notes it, None if it does not.

    Args:
        model: "unet", "text_encoder" or "text_encoder_2".
        name: of the layer, with or without the model's.
    """
    try:
        about = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        alpha = about.get(f"{model}.lora_alpha")
        for pattern, value in (about.get(f"{model}.alpha_pattern") or {}).items():
            if f".{name}".endswith(f".{pattern.lstrip('^')}"):
                alpha = value
        root = rank**0.5 if about.get(f"{model}.use_rslora") else 1.0
        return float(alpha) * root if isinstance(alpha, int | float) else None
    except (ValueError, AttributeError):
        return None


def is_bundled(key: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of a LoRA file holds vectors of an embedding: `bundle_emb.NAME.PART`."""
    return key.startswith(BUNDLE) and key.count(".") >= 2 and tensor.ndim in (1, 2)


def split_key(key: str) -> tuple[str, str]:
    """(stem of the layer, part) of a key; the part is "" where it is none we know."""
    for ending, part in _ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), part
    return key, ""


def kind_of(parts: Mapping[str, torch.Tensor]) -> str:
    """ "lora", "dora", "loha", "lokr", "oft", "diff", or "" for nothing whole."""
    if DOWN in parts and UP in parts:
        return "dora" if "dora_scale" in parts or "magnitude" in parts else "lora"
    for part, kind in (("hada_w1_a", "loha"), ("oft_blocks", "oft"), ("diff", "diff")):
        if part in parts:
            return kind
    if any(p.startswith("lokr_w1") for p in parts) and any(p.startswith("lokr_w2") for p in parts):
        return "lokr"
    return "diff" if "diff_b" in parts else ""


def rank_in(parts: Mapping[str, torch.Tensor]) -> int | None:
    """The rank of a layer's parts; None where they have none."""
    for part in (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if part in parts:
            return len(parts[part])
    return parts["oft_blocks"].shape[-1] if "oft_blocks" in parts else None


def scale_of(parts: Mapping[str, torch.Tensor]) -> float:
    """What the product of the matrices is multiplied with: alpha / rank, 1 without alpha."""
    rank = rank_in(parts)
    if "alpha" not in parts or not rank or kind_of(parts) == "oft":
        return 1.0
    return float(parts["alpha"]) / rank


def change(parts: Mapping[str, torch.Tensor], weight: torch.Tensor | None = None) -> torch.Tensor:
    """What a layer's parts add to its weight, in float32, or float64 for float64 parts.

    Args:
        weight: the original weight; its shape is taken over, and DoRA and OFT need its numbers.

    Raises:
        FileError: the parts do not fit together, or need the weight.
    """
    try:
        return _change(parts, weight)
    except (RuntimeError, KeyError, IndexError, torch.linalg.LinAlgError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"its parts do not fit together ({reason})") from None


def _change(parts: Mapping[str, torch.Tensor], weight: torch.Tensor | None) -> torch.Tensor:
    kind = kind_of(parts)
    values = {k: v.float() if v.dtype.itemsize < 4 else v for k, v in parts.items()}
    if kind == "diff":
        out = values["diff"]
    elif kind == "oft":
        return _turned(values, _required(weight, "OFT")) - weight
    else:
        out = _PRODUCTS["lora" if kind == "dora" else kind](values) * scale_of(parts)
    if weight is not None:
        out = out.reshape(weight.shape)
    if kind == "dora":
        weight = _required(weight, "DoRA")
        return _scaled_columns(weight + out, values, weight) - weight
    return out


def _required(weight: torch.Tensor | None, kind: str) -> torch.Tensor:
    if weight is None:
        raise FileError(f"{kind} changes a weight by what it was: give the checkpoint (--base)")
    return weight


def _lora_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    down, up = p[DOWN], p[UP]
    if MID in p:
        return torch.einsum("mnkl,im,nj->ijkl", p[MID], up.flatten(1), down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def _loha_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "hada_t1" in p:
        both = [
            torch.einsum("ijkl,jr,ip->prkl", p[f"hada_t{i}"], p[f"hada_w{i}_b"], p[f"hada_w{i}_a"])
            for i in (1, 2)
        ]
        return both[0] * both[1]
    return (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])


def _lokr_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    first = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    if "lokr_w2" in p:
        second = p["lokr_w2"]
    elif "lokr_t2" in p:
        second = torch.einsum("ijkl,jr,ip->prkl", p["lokr_t2"], p["lokr_w2_b"], p["lokr_w2_a"])
    else:
        second = p["lokr_w2_a"] @ p["lokr_w2_b"]
    return torch.kron(first.view(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


_PRODUCTS = {"lora": _lora_product, "loha": _loha_product, "lokr": _lokr_product}


def _turned(p: Mapping[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    turn = rotation(p["oft_blocks"]).to(weight)
    rows = weight.reshape(*turn.shape[:2], -1)
    out = torch.einsum("knm,knx->kmx", turn, rows).view(weight.shape)
    return out * p["rescale"].view(-1, *[1] * (weight.ndim - 1)) if "rescale" in p else out


def _scaled_columns(changed, p: Mapping[str, torch.Tensor], weight) -> torch.Tensor:
    """DoRA: columns (or, in files that say so by their shape, rows) brought to trained lengths."""
    if "dora_scale" not in p:  # PEFT: rows, divided by the length of the changed weight
        rows = changed.flatten(1).norm(dim=1)
        return changed * (p["magnitude"].flatten() / rows).view(-1, *[1] * (weight.ndim - 1))
    lengths = p["dora_scale"]
    if lengths.shape[0] == weight.shape[0]:
        rows = changed.flatten(1).norm(dim=1)
        return changed * (lengths.flatten() / rows).view(-1, *[1] * (weight.ndim - 1))
    columns = changed.transpose(0, 1).flatten(1).norm(dim=1)
    return changed * (lengths.flatten() / columns).view(1, -1, *[1] * (weight.ndim - 2))


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


__all__ = [
    *(
        "BINDING",
        "DIFFUSERS",
        "KOHYA",
        "TYPES",
        "LoraFile",
        "Parts",
        "change",
        "file_tensors",
        "kind_of",
    ),
    *("rank_in", "read_lora", "read_safetensors", "scale_of", "split_key", "write_lora_file"),
]
