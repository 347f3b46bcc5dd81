"""The original weights behind the layers of adapters: read from a checkpoint, one at a time.

Also the way back: a checkpoint written anew with some weights changed, tensor by tensor, so that
a 7 GB file needs no 7 GB of memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import Checkpoint
from .errors import FileError
from .keys import PREFIXES, open_clip_key_table
from .lora_names import TEXT_DEPTH, TEXT_PROJECTION, Names, model_of
from .wholefile import whole_file

_QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Place:
    """Where a layer's weight lies: a tensor of the checkpoint, and which third of its rows.

    `transposed`: the file has it as (in, out).
    """

    key: str
    third: int | None = None
    transposed: bool = False

    def part_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view of the layer's own weight, or of its bias, in the checkpoint's tensor."""
        if self.third is not None:
            return tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor


class Weights:
    """Layers of a checkpoint by their names (see lora_names)."""

    def __init__(self, checkpoint: Checkpoint):
        from safetensors import safe_open

        self.checkpoint = checkpoint
        self.names = Names(checkpoint.unet_config)
        self._file = safe_open(checkpoint.path, framework="pt")
        self._clip = {ours: sgm for sgm, ours in open_clip_key_table(TEXT_DEPTH).items()}

    def place(self, name: str) -> Place | None:
        """Where a layer's weight lies, None if this checkpoint has no such layer."""
        model = model_of(name)
        inner = name.removeprefix(f"{model}.")
        if model == "unet":
            sgm = self.names.sgm.get(name)
            place = Place(f"{PREFIXES['unet']}{sgm}.weight")
        elif model == "text_encoder":
            place = Place(f"{PREFIXES['text_l']}{inner}.weight")
        elif inner == TEXT_PROJECTION:
            place = Place(PREFIXES["text_g"] + inner, transposed=True)
        elif inner.endswith(_QKV):
            layer = inner.split(".layers.")[-1].partition(".")[0]
            key = f"transformer.resblocks.{layer}.attn.in_proj_weight"
            place = Place(PREFIXES["text_g"] + key, _QKV.index(inner.rpartition(".")[2]))
        else:
            place = Place(f"{PREFIXES['text_g']}{self._clip.get(f'{inner}.weight')}")
        return place if place.key in self.checkpoint.shapes else None

    def get(self, name: str) -> torch.Tensor | None:
        """A layer's weight in the file's own type, None if there is none."""
        place = self.place(name)
        if place is None:
            return None
        return place.part_of(self._file.get_tensor(place.key))

    def layers(self) -> Iterator[str]:
        """Names of all layers with a matrix or a convolution kernel as weight."""
        for name in dict.fromkeys(self.names.known.values()):
            place = self.place(name)
            if place and len(self.checkpoint.shapes[place.key]) >= 2:
                yield name


def rewrite_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    changed: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Copy a checkpoint with some tensors changed; `path` appears only when complete.

    Args:
        changed: key of a tensor -> what it becomes; shape and type stay.
        metadata: laid over the file's own.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
        FileError: a new value is not finite in the tensor's type.
    """
    from safetensors import safe_open

    with open(checkpoint.path, "rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header = json.loads(source.read(length))
    own = header.get("__metadata__") or {}
    header["__metadata__"] = {**own, **{k: v for k, v in metadata.items() if v}}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    order = sorted(checkpoint.offsets, key=checkpoint.offsets.__getitem__)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(path) as part,
        open(part, "wb") as out,
        open(checkpoint.path, "rb") as source,
        safe_open(checkpoint.path, framework="pt") as tensors,
    ):
        out.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            start, stop = checkpoint.offsets[key]
            if key in changed:
                old = tensors.get_tensor(key)
                out.write(_bytes(_checked(changed[key](old), old, key)))
            else:
                source.seek(start)
                _copy(source, out, stop - start)


def _checked(new: torch.Tensor, old: torch.Tensor, key: str) -> torch.Tensor:
    new = new.to(old.dtype)
    if new.shape != old.shape or not torch.isfinite(new).all():
        raise FileError(f"Weight {key!r} would overflow in {old.dtype}: merge with less weight.")
    return new


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _copy(source, out, count: int) -> None:
    while count:
        block = source.read(min(count, 1 << 22))
        if not block:
            raise OSError("the checkpoint became shorter while it was read")
        out.write(block)
        count -= len(block)
