"""The shipped weights: one small file for each part that is trained by itself, in float16.

They are the finished weights of the stages under their own names, and so in their small forms: a
text encoder's table holds only the tokens in use, autoencoder and ControlNet are without the
channels they do not use (see widen). `complete` makes whole models of them; a stage of demo.train
that has no working files of its own starts from them.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
FOLDER = Path(__file__).resolve().parent / "weights"
SUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
TOKENS = "tokens.txt"  # the rows of the text encoders' tables, after one row for all others


@dataclass(frozen=True)
class Pack:
    """One shipped file: `parts` are (stage, module) in the order in which they are written."""

    name: str
    parts: tuple[tuple[str, str], ...]

    @property
    def file(self) -> str:
        return f"{self.name}.safetensors"


PACKS = (
    Pack("autoencoder", (("vae", "vae"),)),
    Pack("text", (("clip", "text_l"), ("clip", "text_g"))),
    Pack("vision", (("vision", "vision"),)),
    Pack("diffusion", (("unet", "unet"), ("unet", "controlnet"))),
    Pack("references", (("ip_adapter", "adapter"),)),
)


class PackError(RuntimeError):
    """Shipped weights are missing or damaged."""


def write_pack(pack: Pack, parts: Mapping[str, State], folder: Path, notes: dict[str, str]) -> Path:
    """Write `pack` from its modules' states and put its hash into SHA256SUMS."""
    state = {
        f"{module}.{name}": value.half() if value.is_floating_point() else value
        for module, values in parts.items()
        for name, value in values.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / pack.file
    part = path.with_name(f"{path.name}.part")
    save_file(state, part, metadata=notes)
    os.replace(part, path)
    sums = read_sums(folder) | {pack.file: _digest(path)}
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    part = folder / f"{SUMS}.part"
    part.write_text(text, encoding="ascii")
    os.replace(part, folder / SUMS)
    return path


def read_module(stage: str, module: str, folder: Path = FOLDER) -> State | None:
    """A module's shipped weights as float32, None where none are shipped.

    Raises:
        PackError: the file is not the one that belongs to this version.
    """
    for pack in PACKS:
        if (stage, module) in pack.parts and (folder / pack.file).is_file():
            check(pack, folder)
            return _read(folder / pack.file, f"{module}.")
    return None


def check(pack: Pack, folder: Path = FOLDER) -> None:
    """Compare a shipped file with its hash.

    Raises:
        PackError: it is missing, damaged, or of another version.
    """
    path = folder / pack.file
    if not path.is_file():
        raise PackError(f"{path} is missing: install the pack again.")
    if _digest(path) != read_sums(folder).get(pack.file):
        raise PackError(f"{path} is damaged or of another version: install the pack again.")


def read_sums(folder: Path = FOLDER) -> dict[str, str]:
    """File name -> sha256."""
    path = folder / SUMS
    lines = path.read_text("ascii").split("\n") if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def read_tokens(folder: Path = FOLDER) -> tuple[int, ...]:
    """The tokens that the shipped text encoders know, in the order of their table's rows."""
    return tuple(map(int, (folder / TOKENS).read_text("ascii").split()))


def write_tokens(tokens: Sequence[int], folder: Path = FOLDER) -> None:
    """Write the list that `read_tokens` reads, beside the packs."""
    part = folder / f"{TOKENS}.part"
    part.write_text("\n".join(map(str, tokens)) + "\n", "ascii")
    os.replace(part, folder / TOKENS)


def version(folder: Path = FOLDER) -> str:
    """Eight hex digits that change with the weights."""
    return _digest(folder / SUMS)[:8]


def notes(stage: str, folder: Path = FOLDER) -> dict[str, str]:
    """What is written beside a stage's shipped weights: "step" and "seen" of its training."""
    pack = next(p for p in PACKS if stage in {name for name, _ in p.parts})
    with safe_open(folder / pack.file, "pt") as file:
        return file.metadata() or {}


def _read(path: Path, prefix: str) -> State:
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        found = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    return {n: v.float() if v.is_floating_point() else v for n, v in found.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
