"""The trained miniature: SDXL's family learned from scratch on the drawn world, in one small file.

    files = build_trained(models_dir)      # or: python -m demo.trained MODELS_DIR

`demo/weights/nano.safetensors` holds everything in float16; the files written are complete models
in the formats of the real ones (see demo.train.export). How they were trained: demo/README.md.
"""

import hashlib
import sys
from pathlib import Path

from .nano import NanoFiles, nano_files

PACK = Path(__file__).resolve().parent / "weights" / "nano.safetensors"
SHA256 = ""


class PackError(RuntimeError):
    """The weights that belong to this version are missing or damaged."""


def build_trained(models_dir: Path) -> NanoFiles:
    """Write the trained miniature's files below ComfyUI's `models_dir`; existing ones are replaced.

    Raises:
        PackError: the shipped weights are missing or are not those of this version.
    """
    from .train.export import read_pack, write_models

    check_pack(PACK)
    write_models(read_pack(PACK), Path(models_dir))
    return nano_files(models_dir)


def check_pack(path: Path, sha256: str = SHA256) -> None:
    """Compare the shipped weights with their hash.

    Raises:
        PackError: as `build_trained`.
    """
    if not path.is_file():
        raise PackError(f"{path} is missing: get the whole repository.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise PackError(f"{path} is damaged or of another version: sha256 {found}, not {sha256}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.trained MODELS_DIR")
    for file in vars(build_trained(Path(sys.argv[1]))).values():
        if file.is_file():
            print(file)
