"""Commands for adapter files.

    python -m training inspect FILE ... [--json]
    python -m training convert FILE -o OUT [--style diffusers] [--precision bf16]
    python -m training merge FILE FILE ... -o OUT [--weights 0.8,0.5]
    python -m training merge FILE ... --into CHECKPOINT -o OUT
    python -m training resize FILE -o OUT (--rank 8 | --energy 0.98)
    python -m training extract TUNED_CHECKPOINT --base CHECKPOINT -o OUT [--rank 32]

A file appears under its name only when complete; inputs are never overwritten, other files with
--force only. Patterns such as *.safetensors are filled in where the shell does not do it. Exit code
2: something must be changed, and one line on stderr says what.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError, TrainingError, quoted
from .filenames import unwritable
from .wholefile import in_words

if TYPE_CHECKING:
    from .fileops import Made
    from .lora_names import Names
    from .lorafile import LoraFile
    from .parts import Parts

COMMANDS = ("inspect", "convert", "merge", "resize", "extract")
PRECISIONS = ("fp16", "bf16", "fp32")
DONE, REFUSED = 0, 2


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.files = _expanded(options.files)
        if options.command != "inspect":
            _check_output(options)
        lines = _RUN[options.command](options)
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except OSError as error:
        sys.stderr.write(f"Reading or writing failed: {in_words(error)}.\n")
        return REFUSED
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, files: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.add_argument("files", nargs=files or None, type=Path, metavar="FILE")
        made.add_argument(
            "--base",
            type=Path,
            help="checkpoint the file was made for; needed for other "
            "models than SDXL, for DoRA and for OFT",
        )
        if name != "inspect":
            made.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
            made.add_argument("--force", action="store_true", help="overwrite OUT")
        return made

    inspect = command("inspect", "Say what an adapter file is, and what is wrong with it.", "+")
    inspect.add_argument("--json", action="store_true", help="for programs")
    convert = command("convert", "Change names and number format of an adapter file.")
    convert.add_argument("--style", choices=("kohya", "diffusers"), default="kohya")
    merge = command("merge", "Make one LoRA, or one checkpoint, of several adapters.", "+")
    merge.add_argument("--weights", default="1", help="one for each file: 0.8,0.5; last repeats")
    merge.add_argument("--into", type=Path, metavar="CHECKPOINT", help="merge into this one")
    merge.add_argument("--rank", type=_rank, default=64, help="for kinds that are no plain LoRA")
    resize = command("resize", "Make a LoRA smaller, or a plain LoRA of another kind.")
    resize.add_argument("--rank", type=_rank, help="largest rank of a layer")
    resize.add_argument("--energy", type=_share, help="share of a layer's squares to keep: 0.98")
    extract = command("extract", "Make a LoRA of the difference of two checkpoints.")
    extract.add_argument("--rank", type=_rank, default=32)
    extract.add_argument("--energy", type=_share, help="smaller ranks where they hold this share")
    extract.add_argument("--no-text", action="store_true", help="leave the text encoders out")
    for made in (convert, merge, resize, extract):
        made.add_argument("--precision", choices=PRECISIONS, help="of the numbers; else fp16")
    return parser


def _rank(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError("must be 1 to 4096")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError("must be above 0, at most 1")
    return share


def _expanded(files: "Path | list[Path]") -> "Path | list[Path]":
    """The files that are there in place of patterns; cmd and PowerShell leave these to programs."""
    if not isinstance(files, list):
        found = _expanded([files])
        if len(found) > 1:
            raise FileError(f"{quoted(files)} names {len(found)} files: give one.")
        return found[0]
    named = [[] if os.path.exists(path) else sorted(glob(str(path))) for path in files]
    return [
        Path(name) for path, names in zip(files, named, strict=True) for name in names or [path]
    ]


def _check_output(options: argparse.Namespace) -> None:
    out, files = options.output, options.files
    if out.suffix.lower() != ".safetensors":
        raise FileError(f"Output {out.name!r} must end with .safetensors.")
    if reason := unwritable(out.name):
        raise FileError(f"Output {out.name!r} {reason}: choose another name.")
    inputs = [*(files if isinstance(files, list) else [files]), options.base]
    for path in (*inputs, getattr(options, "into", None)):
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise FileError(f"Output {out.name!r} is an input: choose another name.")
    if out.exists() and not options.force:
        raise FileError(f"Output {quoted(out)} exists: choose another name, or add --force.")


# -------------------------------------------------------------------------------- commands


def _names(options: argparse.Namespace) -> "Names":
    from .lora_names import Names, sdxl_names

    base = getattr(options, "into", None) or options.base
    if base is None:
        return sdxl_names()
    from .checkpoint import open_checkpoint

    return Names(open_checkpoint(base).unet_config)


def _weights(path: Path | None):
    if path is None:
        return None
    from .checkpoint import open_checkpoint
    from .weights import Weights

    return Weights(open_checkpoint(path))


def _inspect(options: argparse.Namespace) -> list[str]:
    from .inspection import embedding_facts, inspect_file, report
    from .lorafile import read_lora

    found = []
    for path in options.files:
        facts = embedding_facts(path)
        if not facts:
            names = _names(options)
            facts = inspect_file(read_lora(path, names), names)
        found.append(facts)
    if options.json:
        return [json.dumps(found if len(found) > 1 else found[0], indent=1)]
    return ["\n\n".join(map(report, found))]


def _convert(options: argparse.Namespace) -> list[str]:
    names = _names(options)
    file = _read(options.files, names)
    precision = options.precision or _precision_of(file)
    return _write(options, names, file.layers, file.metadata, options.style, precision, file.rest)


def _merge(options: argparse.Namespace) -> list[str]:
    from .fileops import changes_of_checkpoint, merge_files

    names = _names(options)
    files = [_read(path, names) for path in options.files]
    factors = _factors(options.weights, len(files))
    merged_from = ", ".join(f"{f.path.stem} x {w:g}" for f, w in zip(files, factors, strict=True))
    if options.into:
        from .weights import rewrite_checkpoint

        weights = _weights(options.into)
        changed = changes_of_checkpoint(files, factors, weights)
        note = {"modelspec.merged_from": f"{options.into.stem}, {merged_from}"}
        rewrite_checkpoint(weights.checkpoint, options.output, changed, note)
        return [f"{options.output}: {len(changed)} tensors of {options.into.name} changed"]
    made = merge_files(files, factors, options.rank, _weights(options.base))
    metadata = {**files[0].metadata, "modelspec.merged_from": merged_from}
    bundled = {key: tensor for file in reversed(files) for key, tensor in file.rest.items()}
    return _write_made(options, names, made, metadata, bundled)


def _resize(options: argparse.Namespace) -> list[str]:
    from .fileops import resize

    if options.rank is None and options.energy is None:
        raise FileError("resize needs --rank, --energy, or both.")
    names = _names(options)
    file = _read(options.files, names)
    made = resize(file, options.rank, options.energy, _weights(options.base))
    return _write_made(options, names, made, file.metadata, file.rest)


def _extract(options: argparse.Namespace) -> list[str]:
    from .fileops import extract

    if options.base is None:
        raise FileError("extract needs --base, the checkpoint to compare with.")
    base, tuned = _weights(options.base), _weights(options.files)
    made = extract(base, tuned, options.rank, options.energy, not options.no_text)
    metadata = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_sd_model_name": options.base.name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": options.output.stem,
        "modelspec.description": f"{options.files.stem} minus {options.base.stem}",
    }
    return _write_made(options, base.names, made, metadata)


_RUN = {
    "inspect": _inspect,
    "convert": _convert,
    "merge": _merge,
    "resize": _resize,
    "extract": _extract,
}


# --------------------------------------------------------------------------------- helpers


def _read(path: Path, names: "Names") -> "LoraFile":
    from .fileops import require_sound
    from .lorafile import read_lora

    file = read_lora(path, names)
    require_sound(file)
    for remark in file.remarks:
        sys.stderr.write(f"{path.name}: {remark}.\n")
    if file.strange:
        key = file.strange[0]
        raise FileError(f"{path.name}: key {key!r} is no part of an adapter: inspect the file.")
    return file


def _factors(text: str, count: int) -> list[float]:
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > count or not all(abs(n) <= 100 for n in numbers):
        raise FileError(f"--weights {text!r}: give up to {count} numbers such as 0.8,0.5.")
    return numbers + [numbers[-1]] * (count - len(numbers))


def _precision_of(file: "LoraFile") -> str:
    """The number format most of a file is in."""
    from .lorafile import TYPES

    types = [t.dtype for parts in file.layers.values() for p, t in parts.items() if p != "alpha"]
    common = max(set(types), key=types.count)
    wide = "fp16" if common.itemsize == 1 else "fp32"  # float8 fits into half precision
    return next((name for name, dtype in TYPES.items() if dtype == common), wide)


def _write_made(
    options: argparse.Namespace,
    names: "Names",
    made: "Made",
    metadata: Mapping[str, str],
    bundled: "Parts | None" = None,
) -> list[str]:
    from .parts import rank_in

    ranks = {rank_in(parts) for parts in made.layers.values()} - {None}
    size = str(*ranks) if len(ranks) == 1 else "Dynamic"
    own = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": size,
        "ss_network_alpha": size,
        "ss_network_args": "{}",
        "troupe.kept": f"{made.kept:.6f}",
    }
    precision = options.precision or "fp16"
    about = {**metadata, **own}
    lines = _write(options, names, made.layers, about, "kohya", precision, bundled)
    if made.kept < 1:
        lines.append(f"every layer keeps at least {made.kept:.4f} of its squared change")
    return lines + made.remarks


def _write(
    options: argparse.Namespace,
    names: "Names",
    layers: Mapping[str, "Parts"],
    metadata: Mapping[str, Any],
    style: str,
    precision: str,
    bundled: "Parts | None" = None,
) -> list[str]:
    from .lorafile import file_tensors, read_lora, write_lora_file
    from .metadata import with_hashes

    tensors = file_tensors(layers, names, style, precision)
    if style == "kohya":  # diffusers has no place for embeddings
        tensors |= bundled or {}
    about = {**metadata, "format": "pt"} if style == "diffusers" else dict(metadata)
    write_lora_file(options.output, tensors, with_hashes(tensors, about))
    written = read_lora(options.output, names)
    if set(written.layers) != set(layers):
        raise FileError(f"Output {options.output.name!r} cannot be read back: try again.")
    size = options.output.stat().st_size / 2**20
    lines = [f"{options.output}: {len(layers)} layers, {style}, {precision}, {size:.1f} MiB"]
    if bundled:
        kept = "kept" if style == "kohya" else "left out: diffusers loads it from a file of its own"
        lines.append(f"the embedding inside is {kept}")
    return lines
