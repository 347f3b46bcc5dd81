"""Writes the trained models in the formats of the real files, and their small form for shipping.

`python -m demo.train.export --ship` writes what has been trained here into miniature/weights (see
miniature.packs). `--models DIR` fills a ComfyUI models folder with everything there is, trained
here or shipped. Unused tokens all share one row and unused channels are zero, so nothing is lost on
the way through the small form.
"""

import argparse
from pathlib import Path

from miniature import (
    controlnet_state,
    miniature_files,
    packs,
    save_model,
    write_checkpoint,
)
from miniature.modules import NanoConfig
from miniature.packs import PACKS, State
from training import keys

from .config import CONFIG
from .runs import Run, TrainingError, load_weights
from .tokens import used_tokens


def finished() -> dict[str, State]:
    """The weights of every module that was trained here or is shipped, in small form."""
    found: dict[str, State] = {}
    for stage, module in (part for pack in PACKS for part in pack.parts):
        try:
            found[module] = load_weights(stage, module)
        except TrainingError:
            continue
    return found


def ship(folder: Path = packs.FOLDER, only: tuple[str, ...] = ()) -> list[Path]:
    """Write a pack for every stage that has working files here; `only` names some of them."""
    written = []
    for pack in PACKS:
        stage = pack.parts[0][0]
        if not Run(stage).weights_file.is_file() or (only and pack.name not in only):
            continue
        parts = {module: load_weights(stage, module) for stage, module in pack.parts}
        written.append(packs.write_pack(pack, parts, folder, Run(stage).notes()))
    packs.write_tokens(used_tokens(), folder)
    return written


def write_models(
    parts: dict[str, State], models_dir: Path, config: NanoConfig = CONFIG
) -> list[Path]:
    """The real files made of modules in small form; what is missing is left out."""
    files, written = miniature_files(models_dir), []
    if all(name in parts for name in ("unet", "text_l", "text_g", "vae")):
        write_checkpoint(files.checkpoint, parts, keys, config)
        written.append(files.checkpoint)
    if "controlnet" in parts:
        save_model(files.controlnet, controlnet_state(parts, keys, config))
        written.append(files.controlnet)
    for name, path in (("vision", files.clip_vision), ("adapter", files.ip_adapter_plus)):
        if name in parts:
            save_model(path, parts[name])
            written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the trained models.")
    parser.add_argument("--models", type=Path, help="a ComfyUI models folder to fill")
    parser.add_argument("--ship", action="store_true", help="write the files in miniature/weights")
    names = ",".join(pack.name for pack in PACKS)
    parser.add_argument("--only", default="", help=f"with --ship: some of {names}")
    args = parser.parse_args()
    written = ship(only=tuple(filter(None, args.only.split(",")))) if args.ship else []
    if args.models:
        written += write_models(finished(), args.models)
    for path in written:
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
