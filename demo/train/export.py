"""Writes the trained models in the formats of the real files, and their small form for shipping.

`python -m demo.train.export --models DIR` fills a ComfyUI models folder with whatever stages have
finished. `--pack FILE` writes one file with everything in float16, where a text encoder's table
holds only the tokens in use and the autoencoder and ControlNet are without the channels they do not
use; `write_models` makes the real files from it. Unused tokens all share one row and unused
channels are zero, so nothing is lost.
"""

import argparse
import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training import keys

from .. import modules, nano
from ..modules import NanoConfig
from . import controlnet, narrow
from .config import CONFIG
from .runs import Run, load_weights
from .tokens import expand, used_tokens

State = dict[str, torch.Tensor]
# (stage, module in its weights file, name in the pack)
PARTS = (
    ("vae", "vae", "vae"),
    ("clip", "text_l", "text_l"),
    ("clip", "text_g", "text_g"),
    ("clip", "vision", "vision"),
    ("vision", "vision", "vision"),
    ("unet", "unet", "unet"),
    ("unet", "controlnet", "controlnet"),
    ("ip_adapter", "adapter", "adapter"),
)
_TABLE = "embeddings.token_embedding.weight"


def finished() -> State:
    """Everything trained so far, float16, `part.name`; text tables small, `tokens` their ids."""
    state: State = {"tokens": torch.tensor(used_tokens())}
    for stage, module, part in PARTS:
        if Run(stage).weights_file.is_file():
            for name, value in load_weights(stage, module).items():
                state[f"{part}.{name}"] = value.half() if value.is_floating_point() else value
    return state


def read_pack(path: Path) -> State:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_models(state: State, models_dir: Path, config: NanoConfig = CONFIG) -> list[Path]:
    """The real files made of a pack's parts; parts that are missing are left out."""
    files, written = nano.nano_files(models_dir), []
    names = ("vae", "text_l", "text_g", "vision", "unet", "controlnet", "adapter")
    parts = {part: _part(state, part) for part in names}
    for name in ("text_l", "text_g"):
        if parts[name]:
            parts[name] = _with_full_table(parts[name], state["tokens"].tolist())
    if parts["vae"]:
        parts["vae"] = narrow.widen(parts["vae"], modules.build_vae(config))
    if all(parts[name] for name in ("unet", "text_l", "text_g", "vae")):
        sgm = keys.to_sgm_checkpoint(
            parts["unet"], _config_of(modules.build_unet, config), parts["text_l"],
            parts["text_g"], parts["vae"],
        )  # fmt: skip
        scale = {keys.PREFIXES["vae"] + k: v for k, v in nano.LATENT_SCALE.items()}
        native = {"modelspec.resolution": f"{config.resolution}x{config.resolution}"}
        written.append(_write(files.checkpoint, sgm | scale, native))
    if parts["controlnet"]:
        with torch.device("meta"):
            full = modules.build_controlnet(config)
        wide = controlnet.widen(parts["controlnet"], full.state_dict())
        table = nano._cldm_table(wide, full.config)
        net = {f"control_model.{ours}": wide[name] for ours, name in table}
        written.append(_write(files.controlnet, net))
    if parts["vision"]:
        written.append(_write(files.clip_vision, parts["vision"]))
    if parts["adapter"]:
        written.append(_write(files.ip_adapter_plus, parts["adapter"]))
    return written


def _part(state: State, part: str) -> State:
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _with_full_table(text: State, tokens: list[int]) -> State:
    name = next(key for key in text if key.endswith(_TABLE))
    return {**text, name: expand(text[name], tuple(tokens))}


def _config_of(build, config: NanoConfig):
    with torch.device("meta"):
        return build(config).config


def _write(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    nano._write(path, state, metadata)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the trained models.")
    parser.add_argument("--models", type=Path, help="a ComfyUI models folder to fill")
    parser.add_argument("--pack", type=Path, help="write one small file with everything")
    args = parser.parse_args()
    state = finished()
    if args.pack:
        part = args.pack.with_name(f"{args.pack.name}.part")
        save_file(state, part)
        part.replace(args.pack)
        digest = hashlib.sha256(args.pack.read_bytes()).hexdigest()
        print(f"{args.pack} {args.pack.stat().st_size / 1e6:.1f} MB sha256 {digest}")
    if args.models:
        for path in write_models(state, args.models):
            print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
