"""LoRA files in ComfyUI's folders, and applying them without losing a key in silence."""

import hashlib
import logging
import posixpath
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths

from ...training import NameTaken, check_replaceable, in_words, whole_file, with_comfy_names
from .listings import model_files
from .paths import PathError, find_below, with_slashes
from .words import split_words, with_words

log = logging.getLogger(__name__)

WEIGHT_LIMIT = 100.0  # as core's Load LoRA


class LoraError(ValueError):
    """A LoRA cannot be found, read or applied."""


# ------------------------------------------------------------------------------------- keeping


def keep_lora(file: Path, folder: Path, stem: str, root: Path) -> str:
    """Copy a finished LoRA into `folder`; returns its name relative to `root`, with '/'.

    A file of the same content keeps its name; another content never overwrites one but gets a
    number, also where another server keeps its own LoRA there at the same time.

    Raises:
        LoraError: it cannot be written there; says why, and where the finished file is.
    """
    content, number = _sha256(file), 1
    while True:
        name = stem if number == 1 else f"{stem}_{number:05}"
        target = folder / f"{name}.safetensors"
        if target.exists() and _holds(target, file, content):
            return target.relative_to(root).as_posix()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(target, new=True) as part:
                shutil.copyfile(file, part)
        except NameTaken:
            # what was finished at this moment may be the same
            number += not (target.exists() and _holds(target, file, content))
        except OSError as error:
            raise LoraError(
                f"{target.name} cannot be written into {folder} ({in_words(error)}). The finished "
                f"file is {file}: make room or let go of the file, and queue again."
            ) from error
        else:
            return target.relative_to(root).as_posix()


def check_lora_folder(folder: Path, stem: str) -> None:
    """Find out before a training whether its LoRA can be written after it.

    Raises:
        LoraError: a read-only folder, a path that is too long, ...; says which.
    """
    try:
        check_replaceable(folder / f"{stem}_.safetensors")
    except OSError as error:
        raise LoraError(
            f"filename_prefix: no LoRA can be written into {folder} ({in_words(error)}): choose "
            "another name, or make the folder writable."
        ) from None


def _holds(target: Path, file: Path, content: str) -> bool:
    """Whether `target` is the same file as `file`, whose sha256 is `content`."""
    try:
        return target.stat().st_size == file.stat().st_size and _sha256(target) == content
    except OSError:  # open elsewhere, or gone: not known to be the same
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ applying


@dataclass(frozen=True)
class LoraUse:
    """One LoRA with its weights: either tensors or a file."""

    label: str
    model_weight: float
    clip_weight: float
    tensors: Mapping[str, Any] | None = None
    path: Path | None = None

    @classmethod
    def of(cls, value: Any, model_weight: float, clip_weight: float, label: str) -> "LoraUse":
        """From what a socket carries: a LORA_MODEL or the name of a file."""
        if isinstance(value, str):
            return cls(value, model_weight, clip_weight, path=_find(value))
        if isinstance(value, Mapping):
            return cls(label, model_weight, clip_weight, tensors=value)
        raise LoraError(f"{label}: connect a LoRA or the name of a LoRA file.")

    def fingerprint(self) -> tuple:
        """Changes when the file changes."""
        about = self.path.stat()
        return (self.label, about.st_size, about.st_mtime_ns)

    def load(self) -> tuple[dict[str, Any], dict | None]:
        """(tensors, metadata)."""
        if self.tensors is not None:
            return dict(self.tensors), None
        try:
            return comfy.utils.load_torch_file(str(self.path), safe_load=True, return_metadata=True)
        except Exception as error:
            raise LoraError(
                f"LoRA {self.label!r} cannot be read ({error}): download or train it again."
            ) from None


def _find(name: str) -> Path:
    # core's own listing: it follows the links by which people share model folders
    listed = model_files("loras")
    for plain in (_path, lambda text: _path(text).casefold()):  # Windows ignores case
        found = [one for one in listed if plain(one) == plain(name)]
        if len(found) == 1 or (found and plain is _path):
            return Path(folder_paths.get_full_path_or_raise("loras", found[0]))
    find_below(folder_paths.get_folder_paths("loras"), name, "LoRA")  # names what is wrong
    raise PathError(f"LoRA {name!r} is not a LoRA file: name a .safetensors file.")


def _path(name: str) -> str:
    return posixpath.normpath(with_slashes(name.strip()))


def parse_weights(text: str, count: int) -> list[tuple[float, float]]:
    """(model weight, clip weight) for `count` LoRAs from '0.8, 1/0.5'; the last one repeats.

    Raises:
        LoraError: not a number, or out of range.
    """
    words = [w for w in text.replace("\n", ",").replace(";", ",").split(",") if w.strip()]
    pairs = [_weights(w, "weights") for w in words] or [(1.0, 1.0)]
    if len(pairs) > max(count, 1):
        raise LoraError(f"weights: {len(pairs)} given for {count} connected LoRAs.")
    return (pairs + [pairs[-1]] * count)[:count]


def parse_stack(text: str) -> list[LoraUse]:
    """LoRA files from lines 'name: weight' or 'name: model weight/clip weight'; # is a comment.

    Raises:
        LoraError, PathError: a weight is no number, or a file does not exist.
    """
    uses = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, words = line.rpartition(":")
        if not colon:
            name, words = line, "1.0"
        name = name.strip()
        pair = _weights(words, f"files: weight of {name!r}")
        uses.append(LoraUse.of(name, *pair, label=name))
    return uses


def _weights(text: str, what: str) -> tuple[float, float]:
    words = text.strip().split("/")
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        raise LoraError(f"{what}: {text.strip()!r} is no number; write 0.8 or 0.8/0.5.") from None
    if len(numbers) > 2 or not all(abs(n) <= WEIGHT_LIMIT for n in numbers):
        raise LoraError(
            f"{what}: {text.strip()!r} must be one or two numbers up to {WEIGHT_LIMIT:g}."
        )
    return numbers[0], numbers[-1]


def apply_loras(model: Any, clip: Any, uses: Iterable[LoraUse]) -> tuple[Any, Any, str]:
    """(model, clip, report): clones with every LoRA in order; the originals stay as they are.

    Words inside LoRA files become known to the clip (see `words`); of two with one name the last.

    Raises:
        LoraError: a LoRA cannot be read, or not one of its keys fits the model.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    lines = []
    for use in uses:
        tensors, metadata = use.load()
        tensors, words = split_words(tensors)
        tensors = with_comfy_names(tensors, metadata, names)
        unloaded = sorted(k for k in tensors if not _fits(k, names))
        if len(unloaded) == len(tensors):
            raise LoraError(
                f"LoRA {use.label!r} fits no layer of this model (its first key is "
                f"{next(iter(sorted(tensors)), 'missing')!r}): it belongs to another kind of model."
            )
        lines.append(_line(use, len(tensors), unloaded, clip is None))
        if use.model_weight == 0 and use.clip_weight == 0:
            continue
        model, clip = _apply(model, clip, use, tensors, metadata)
        if words:
            clip = with_words(clip, words) if clip is not None else None
            said = ", ".join(f"embedding:{name}" for name in words)
            hint = "in prompts of this clip" if clip is not None else "in prompts: connect clip"
            lines.append(f"{use.label}: {said} {hint}")
    return model, clip, "\n".join(lines) or "No LoRA."


def _apply(model: Any, clip: Any, use: LoraUse, tensors: dict, metadata: dict | None) -> tuple:
    try:
        return comfy.sd.load_lora_for_models(
            model, clip, tensors, use.model_weight, use.clip_weight, lora_metadata=metadata
        )
    except KeyError as error:  # core asks for the other half of a pair without looking
        raise LoraError(f"LoRA {use.label!r} lacks {error}: download or train it again.") from None


def _fits(key: str, names: Mapping[str, Any]) -> bool:
    """Whether some beginning of `key`, up to a dot, names a layer."""
    end = len(key)
    while end > 0:
        stem = key[:end]
        if stem in names or stem.removesuffix("_lora") in names:
            return True
        end = key.rfind(".", 0, end)
    return False


def _line(use: LoraUse, count: int, unloaded: list[str], without_clip: bool) -> str:
    weights = f"{use.model_weight:g}"
    if use.clip_weight != use.model_weight:
        weights += f"/{use.clip_weight:g}"
    line = f"{use.label}: weight {weights}, {count - len(unloaded)} of {count} keys"
    if unloaded:
        hint = ""
        if without_clip and any(k.startswith(("lora_te", "text_encoder")) for k in unloaded):
            hint = "; connect clip for the text encoder's"
        line += f"; NOT loaded: {', '.join(unloaded[:3])}"
        line += f" and {len(unloaded) - 3} more{hint}" if len(unloaded) > 3 else hint
        log.warning("LoRA %s", line)
    return line
