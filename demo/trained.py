"""The trained miniature as files, for ComfyUIs that load it by name: demo, proof, serve.

`python -m demo.trained MODELS_DIR`. Files that are there are kept. (Load Miniature needs none of
them.)
"""

import sys
from pathlib import Path

from miniature import (
    controlnet_state,
    miniature_files,
    save_model,
    shipped_parts,
    write_checkpoint,
)
from miniature.complete import MiniatureFiles
from training import keys


def place_trained(models_dir: Path) -> MiniatureFiles:
    """Write what is missing of the trained miniature's files below ComfyUI's `models_dir`.

    Raises:
        miniature.PackError: shipped weights are missing or not those of this version.
    """
    files = miniature_files(models_dir)
    if all(path.exists() for path in vars(files).values()):
        return files
    parts = shipped_parts()
    if not files.checkpoint.exists():
        write_checkpoint(files.checkpoint, parts, keys)
    for path, make in (
        (files.controlnet, lambda: controlnet_state(parts, keys)),
        (files.clip_vision, lambda: parts["vision"]),
        (files.ip_adapter_plus, lambda: parts["adapter"]),
    ):
        if not path.exists():
            save_model(path, make())
    return files


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.trained MODELS_DIR")
    for file in vars(place_trained(Path(sys.argv[1]))).values():
        print(file)
