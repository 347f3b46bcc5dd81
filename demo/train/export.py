"""Writes the trained models in the formats of the real files, and their small form for shipping.

`python -m demo.train.export --ship` writes what has been trained here into demo/weights (see
packs). `--models DIR` fills a ComfyUI models folder with everything there is, trained here or
shipped. Unused tokens all share one row and unused channels are zero, so nothing is lost on the way
through the small form.
"""

import argparse
from pathlib import Path

import torch

from training import keys

from .. import modules, nano
from ..modules import NanoConfig
from . import controlnet, narrow, packs
from .config import CONFIG
from .packs import PACKS, State
from .runs import Run, TrainingError, load_weights
from .tokens import expand, used_tokens

_TABLE = "embeddings.token_embedding.weight"


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
    return written


def write_models(
    parts: dict[str, State], models_dir: Path, config: NanoConfig = CONFIG
) -> list[Path]:
    """The real files made of modules in small form; what is missing is left out."""
    files, written = nano.nano_files(models_dir), []
    parts = dict(parts)
    for name in ("text_l", "text_g"):
        if name in parts:
            parts[name] = _with_full_table(parts[name])
    if "vae" in parts:
        parts["vae"] = narrow.widen(parts["vae"], modules.build_vae(config))
    if all(name in parts for name in ("unet", "text_l", "text_g", "vae")):
        sgm = keys.to_sgm_checkpoint(
            parts["unet"], _config_of(modules.build_unet, config), parts["text_l"],
            parts["text_g"], parts["vae"],
        )  # fmt: skip
        scale = {keys.PREFIXES["vae"] + k: v for k, v in nano.LATENT_SCALE.items()}
        native = {"modelspec.resolution": f"{config.resolution}x{config.resolution}"}
        written.append(_write(files.checkpoint, sgm | scale, native))
    if "controlnet" in parts:
        with torch.device("meta"):
            full = modules.build_controlnet(config)
        wide = controlnet.widen(parts["controlnet"], full.state_dict())
        table = nano._cldm_table(wide, full.config)
        net = {f"control_model.{ours}": wide[name] for ours, name in table}
        written.append(_write(files.controlnet, net))
    if "vision" in parts:
        written.append(_write(files.clip_vision, parts["vision"]))
    if "adapter" in parts:
        written.append(_write(files.ip_adapter_plus, parts["adapter"]))
    return written


def _with_full_table(text: State) -> State:
    name = next(key for key in text if key.endswith(_TABLE))
    return {**text, name: expand(text[name], used_tokens())}


def _config_of(build, config: NanoConfig):
    with torch.device("meta"):
        return build(config).config


def _write(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    nano._write(path, state, metadata)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the trained models.")
    parser.add_argument("--models", type=Path, help="a ComfyUI models folder to fill")
    parser.add_argument("--ship", action="store_true", help="write the files in demo/weights")
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
