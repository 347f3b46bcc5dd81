"""Where training keeps its files, and how they are written so that no crash can spoil them.

A stage's folder holds `state.pt` (to go on), `weights.safetensors` (to use; averaged over training
where the stage averages) and `log.jsonl` (one line per report).
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from miniature import packs
from tools.comfyui import cache_dir


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says what to do."""


def train_dir() -> Path:
    """All working files; outside the checkout. TROUPE_TRAIN_DIR moves it."""
    given = os.environ.get("TROUPE_TRAIN_DIR", "").strip()
    return Path(given) if given else cache_dir() / "train"


class Run:
    """The folder of one stage."""

    def __init__(self, stage: str, root: Path | None = None):
        self.stage = stage
        self.folder = (root or train_dir()) / stage
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def weights_file(self) -> Path:
        return self.folder / "weights.safetensors"

    def save_state(self, state: Mapping) -> None:
        _replace(self.folder / "state.pt", lambda part: torch.save(dict(state), part))

    def load_state(self, device: torch.device) -> dict | None:
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        return torch.load(path, map_location=device, weights_only=True)

    def save_weights(self, weights: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        _replace(self.weights_file, lambda part: save_file(plain, part, metadata=dict(notes)))

    def notes(self) -> dict[str, str]:
        """What `save_weights` was told."""
        with safe_open(self.weights_file, "pt") as file:
            return file.metadata() or {}

    def part_file(self, number: int) -> Path:
        """A file of a stage that prepares data: it writes many, each whole or not at all."""
        return self.folder / f"part-{number:03d}.safetensors"

    def save_part(self, number: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a part's tensors as float16."""
        halved = {name: value.half().contiguous() for name, value in tensors.items()}
        _replace(self.part_file(number), lambda part: save_file(halved, part))

    def parts(self) -> dict[int, dict[str, torch.Tensor]]:
        """Number -> tensors of every part there is."""
        paths = sorted(self.folder.glob("part-*.safetensors"))
        return {int(path.stem[5:]): load_file(path) for path in paths}

    def log(self, **entry) -> None:
        entry = {"time": round(time.time(), 1), "stage": self.stage, **entry}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def load_weights(stage: str, module: str, root: Path | None = None) -> dict[str, torch.Tensor]:
    """The weights of one module of a stage, by the module's own names: from its working files, else
    those that are shipped.

    Raises:
        TrainingError: the stage has not run yet and nothing is shipped.
    """
    path = Run(stage, root).weights_file
    if not path.is_file():
        shipped = packs.read_module(stage, module)
        if shipped is None:
            raise TrainingError(f"{stage!r} has no weights yet: run python -m demo.train.{stage}")
        return shipped
    prefix = f"{module}."
    state = load_file(path)
    return {name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)}


def _replace(path: Path, write) -> None:
    part = path.with_name(f"{path.name}.part")
    write(part)
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
