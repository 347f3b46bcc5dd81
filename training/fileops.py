"""What can be done with adapter files: convert, merge, resize, extract, bake into a checkpoint.

Every function takes files as `lorafile` reads them and gives layers back; `files_cli` reads,
writes and talks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .bake import Baked, kept_overall, resize_layer
from .errors import FileError
from .lorafile import LoraFile
from .parts import DOWN, MID, UP, Parts, change, complaint, kind_of, scale_of
from .weights import Weights

Layers = dict[str, Parts]
BIAS = "diff_b"


@dataclass
class Made:
    """Layers of a new file.

    Attributes:
        kept: the smallest share of a layer's squared change that the new file holds.
        remarks: what the user should know, one line each.
    """

    layers: Layers
    kept: float = 1.0
    remarks: list[str] = field(default_factory=list)


def require_sound(file: LoraFile) -> None:
    """Refuse what cannot be computed with.

    Raises:
        FileError: a number is not finite, or a layer is half, of a kind unknown here, or has a part
            that nothing would read; names file and layer.
    """
    for name, parts in file.layers.items():
        if wrong := complaint(parts):
            raise FileError(f"{file.path.name}: layer {name!r} {wrong}.")


# ---------------------------------------------------------------------------------- resize


def resize(
    file: LoraFile,
    rank: int | None = None,
    energy: float | None = None,
    weights: Weights | None = None,
) -> Made:
    """The best plain LoRA of at most a rank, or of the smallest ranks with a share of the energy.

    Raises:
        FileError: see `resize_layer`; names the layer.
    """
    made, baked = Made({}), []
    for name, parts in file.layers.items():
        result = _resized(file, name, parts, rank, energy, weights)
        baked += [result] if result else []
        made.layers[name] = {**(result.parts if result else {}), **_bias(parts)}
    made.kept = kept_overall(baked)
    return made


def _resized(file, name: str, parts: Parts, rank, energy, weights: Weights | None) -> Baked | None:
    if set(parts) == {BIAS}:
        return None
    weight = weights.get(name) if weights and kind_of(parts) != "lora" else None
    try:
        return resize_layer(name, parts, rank, energy, weight)
    except FileError as error:
        raise FileError(f"{file.path.name}: layer {name!r}: {error}.") from None


def _bias(parts: Mapping[str, torch.Tensor], factor: float = 1.0) -> Parts:
    return {BIAS: parts[BIAS].float() * factor} if BIAS in parts else {}


# ----------------------------------------------------------------------------------- merge


def merge_files(
    files: Sequence[LoraFile], factors: Sequence[float], rank: int, weights: Weights | None = None
) -> Made:
    """Several adapters as one: its effect is the weighted sum of theirs.

    Plain LoRAs are laid side by side, which is exact and as large as all of them together. Other
    kinds are brought to plain LoRAs of `rank` first.

    Raises:
        FileError: see `resize_layer`; or one layer has different shapes in two files.
    """
    made, baked = Made({}), []
    for name in dict.fromkeys(n for file in files for n in file.layers):
        pairs, bias = [], None
        for file, factor in zip(files, factors, strict=True):
            parts = file.layers.get(name)
            if parts is None:
                continue
            if BIAS in parts:
                more = parts[BIAS].float() * factor
                bias = more if bias is None else bias + more
            if kind_of(parts) != "lora" or MID in parts:
                result = _resized(file, name, parts, rank, None, weights)
                if result is None:
                    continue
                baked.append(result)
                parts = result.parts
            pairs.append((parts, factor))
        layer = _side_by_side(name, pairs) if pairs else {}
        made.layers[name] = layer | ({} if bias is None else {BIAS: bias})
    made.kept = kept_overall(baked)
    if baked:
        made.remarks.append(f"{len(baked)} layers that are no plain LoRA became rank {rank}.")
    return made


def _side_by_side(name: str, pairs: Sequence[tuple[Parts, float]]) -> Parts:
    downs, ups = [], []
    for parts, factor in pairs:
        scale = factor * scale_of(parts)
        size = abs(scale) ** 0.5  # half on each side keeps both in the range of 16 bit
        downs.append(parts[DOWN].float() * size)
        ups.append(parts[UP].float() * (size if scale >= 0 else -size))
    try:
        kernel = next((d.shape[2:] for d in downs if d.ndim == 4), ())
        down = torch.cat([d.reshape(len(d), -1, *kernel) for d in downs])
        up = torch.cat([u.flatten(1) for u in ups], dim=1)
    except RuntimeError:
        shapes = [tuple(d.shape) for d in downs]
        raise FileError(f"Layer {name!r} has different shapes in the files: {shapes}.") from None
    return {
        DOWN: down,
        UP: up.view(*up.shape, *[1] * len(kernel)),
        "alpha": torch.tensor(float(len(down))),
    }


def changes_of_checkpoint(
    files: Sequence[LoraFile], factors: Sequence[float], weights: Weights
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What merging adapters does to a checkpoint: key of a tensor -> function of its value.

    Raises:
        FileError: a file has a layer that the checkpoint lacks.
    """
    steps: dict[str, list] = {}
    for file, factor in zip(files, factors, strict=True):
        for name, parts in file.layers.items():
            place = weights.place(name)
            if place is None:
                raise FileError(
                    f"{file.path.name}: layer {name!r} is not in {weights.checkpoint.path.name!r}: "
                    "it was made for another model."
                )
            if BIAS in parts:
                key = f"{place.key.removesuffix('weight')}bias"
                steps.setdefault(key, []).append((file, name, _bias(parts), factor, place))
            if set(parts) != {BIAS}:
                steps.setdefault(place.key, []).append((file, name, parts, factor, place))
    return {key: lambda old, todo=todo: _changed(old, todo) for key, todo in steps.items()}


def _changed(old: torch.Tensor, todo: list) -> torch.Tensor:
    new = old.float().clone()
    for file, name, parts, factor, place in todo:
        part = place.part_of(new)
        try:
            delta = parts[BIAS] if set(parts) == {BIAS} else change(parts, part.clone())
        except FileError as error:
            raise FileError(f"{file.path.name}: layer {name!r}: {error}.") from None
        part += factor * delta
    return new


# --------------------------------------------------------------------------------- extract


def extract(
    base: Weights, tuned: Weights, rank: int, energy: float | None, with_text: bool = True
) -> Made:
    """The LoRA that brings one checkpoint as near to another as its rank allows.

    Raises:
        FileError: the checkpoints have other layers or shapes.
    """
    one, two = base.checkpoint, tuned.checkpoint
    if one.unet_config != two.unet_config:
        raise FileError(f"{two.path.name!r} is no relative of {one.path.name!r}: other layers.")
    made, baked, held = Made({}), [], set()
    for name in base.layers():
        place = base.place(name)
        held.add(place.key)
        if not with_text and name.startswith("text_encoder"):
            continue
        before, after = base.get(name), tuned.get(name)
        if after is None or before.shape != after.shape:
            raise FileError(f"Layer {name!r} of {one.path.name!r} is not in {two.path.name!r}.")
        delta = after.float() - before.float()
        if not torch.isfinite(delta).all():
            raise FileError(f"Layer {name!r} holds NaN or infinity in one of the checkpoints.")
        if delta.any():
            baked.append(resize_layer(name, {"diff": delta}, rank, energy))
            made.layers[name] = baked[-1].parts
    if not made.layers:
        raise FileError(f"{two.path.name!r} and {one.path.name!r} have the same weights.")
    made.kept = kept_overall(baked)
    others = _other_differences(base, tuned, held)
    if others:
        made.remarks.append(
            f"{len(others)} tensors differ that a LoRA does not hold, such as {others[0]}."
        )
    return made


def _other_differences(base: Weights, tuned: Weights, held: set[str]) -> list[str]:
    from safetensors import safe_open

    shapes = base.checkpoint.shapes
    prefixes = ("model.diffusion_model.", "conditioner.")
    names = [k for k in shapes if k not in held and k.startswith(prefixes)]
    out = []
    with (
        safe_open(base.checkpoint.path, "pt") as one,
        safe_open(tuned.checkpoint.path, "pt") as two,
    ):
        for key in names:
            if tuned.checkpoint.shapes.get(key) != shapes[key]:
                out.append(key)
            elif not torch.equal(one.get_tensor(key).float(), two.get_tensor(key).float()):
                out.append(key)
    return out
