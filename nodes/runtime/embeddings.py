"""Trained embeddings where ComfyUI finds them: `embedding:NAME` in any prompt."""

import os
import re
from pathlib import Path
from typing import Any

import folder_paths

from ...training import remove_all_left
from .loras import keep_lora

FOLDER = "embeddings"
# below output/, where the LoRAs go as well: core looks there for those of its own accord
folder_paths.add_model_folder_path(
    FOLDER, os.path.join(folder_paths.get_output_directory(), FOLDER)
)


def keep_embeddings(
    done: dict[str, Any], lora: str, name: str = ""
) -> tuple[list[str], list[dict]]:
    """Copy a run's embeddings into output/embeddings; (lines for the user, files for the node).

    A file of the same content keeps its name; another content never overwrites one, nor takes a
    name that an embedding in another folder has, but gets a number.

    Args:
        done: the run's last event.
        lora: name of the LoRA, which the embeddings take over.
        name: what the job calls them instead.
    """
    root = Path(folder_paths.get_output_directory()) / FOLDER
    # no letter at which ComfyUI would end the name in a prompt, or take it for a weight
    base = name or re.sub(r"[^\w.+@/-]", "_", Path(lora).with_suffix("").as_posix())
    lines, files = [], []
    for made in done.get("embeddings", ()):
        kept = _keep(Path(made["file"]), root, base + made["suffix"])
        said = kept.with_suffix("").as_posix()
        lines.append(f"write embedding:{said} in prompts, in place of {made['word']!r}")
        if made.get("inside"):
            lines.append(f"with a clip from Apply LoRAs embedding:{made['inside']} is this one")
        subfolder = (Path(FOLDER) / kept).parent.as_posix()
        files.append({"filename": kept.name, "subfolder": subfolder, "type": "output"})
    return lines, files


def _keep(file: Path, root: Path, wanted: str) -> Path:
    stem, number = wanted, 1
    while _elsewhere(root, stem):
        number += 1
        stem = f"{wanted}_{number:05}"
    remove_all_left((root / stem).parent, Path(stem).name)
    return Path(keep_lora(file, (root / stem).parent, Path(stem).name, root))


def _elsewhere(root: Path, stem: str) -> bool:
    """Whether another folder of embeddings has this name: ComfyUI might take that one."""
    others = [Path(f) for f in folder_paths.get_folder_paths(FOLDER) if Path(f) != root]
    return any((f / f"{stem}{end}").is_file() for f in others for end in (".safetensors", ".pt"))
