"""The trained miniature as files, for ComfyUIs that load it by name: demo, proof, serve.

`python -m demo.trained MODELS_DIR`. Files that are there are kept. (Load Miniature needs none of
them.)
"""

import sys
from pathlib import Path

from miniature import miniature_files, shipped_parts
from miniature.complete import MiniatureFiles


def place_trained(models_dir: Path) -> MiniatureFiles:
    """Write what is missing of the trained miniature's files below ComfyUI's `models_dir`.

    Raises:
        miniature.PackError: shipped weights are missing or not those of this version.
    """
    from .train.export import write_models

    files = miniature_files(models_dir)
    if not all(path.exists() for path in vars(files).values()):
        write_models(shipped_parts(), Path(models_dir))
    return files


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.trained MODELS_DIR")
    for file in vars(place_trained(Path(sys.argv[1]))).values():
        print(file)
