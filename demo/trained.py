"""The trained miniature: SDXL's family learned from scratch on the drawn world, shipped small.

    files = build_trained(models_dir)      # or: python -m demo.trained MODELS_DIR

`demo/weights` holds everything in float16; the files written are complete models in the formats of
the real ones (see demo.train.packs and demo.train.export). How they were trained: demo/README.md.
"""

import sys
from pathlib import Path

from .nano import NanoFiles, nano_files


def build_trained(models_dir: Path) -> NanoFiles:
    """Write the trained miniature's files below ComfyUI's `models_dir`; existing ones are replaced.

    Raises:
        demo.train.packs.PackError: shipped weights are missing or not those of this version.
    """
    from .train import packs
    from .train.export import write_models

    parts = {}
    for pack in packs.PACKS:
        packs.check(pack)
        parts |= {module: packs.read_module(stage, module) for stage, module in pack.parts}
    write_models(parts, Path(models_dir))
    return nano_files(models_dir)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.trained MODELS_DIR")
    for file in vars(build_trained(Path(sys.argv[1]))).values():
        if file.is_file():
            print(file)
