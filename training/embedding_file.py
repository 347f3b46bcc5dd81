"""The file of a new word, as ComfyUI reads it for `embedding:NAME` in a prompt.

Two tensors: `clip_l` (N, 768) and `clip_g` (N, 1280) of SDXL's text encoders. Bundled into a LoRA
file they are called `bundle_emb.NAME.clip_l`, in the words of OneTrainer and of the web UIs.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .embedding import KEYS, vectors_of
from .errors import ExportError, FileError
from .lorafile import BUNDLE, is_bundled, read_safetensors
from .tensorfile import serialize, write_changed
from .tokens import Words

if TYPE_CHECKING:
    from .plan import Plan

ARCHITECTURE = "stable-diffusion-xl-v1-base/textual-inversion"


def embedding_name(plan: "Plan") -> str:
    """What the embedding is called where nobody says otherwise."""
    return plan.job.embedding.name or re.sub(r"[^\w+@-]", "_", plan.job.name)


def suffixes(words: Words) -> list[str]:
    """What each word adds to the name of its file: nothing for a single one."""
    if len(words.words) == 1:
        return [""]
    plain = ["_" + re.sub(r"[^\w+@-]", "_", word) for word in words.words]
    return [f"{s}_{i}" if plain.index(s) != i else s for i, s in enumerate(plain)]


def _of_each(weights: Mapping[str, torch.Tensor], words: Words) -> list[dict[str, torch.Tensor]]:
    tensors = vectors_of(weights)
    if set(tensors) != set(KEYS) or not all(torch.isfinite(t).all() for t in tensors.values()):
        raise ExportError(
            "The embedding holds numbers that are not finite: train again with a lower "
            "embedding.learning_rate."
        )
    parts = {key: tensor.split(words.vectors) for key, tensor in tensors.items()}
    return [{k: v[i].clone() for k, v in parts.items()} for i in range(len(words.words))]


def write_embeddings(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    plan: "Plan",
    metadata: Mapping[str, str],
) -> list[tuple[str, str, Path]]:
    """Write the vectors of new words among `Adapter.state()`: (word, suffix, file) of each.

    They are float32, whatever the LoRA is in.

    Args:
        metadata: of the LoRA; what it says about who made it and of what is taken over.

    Raises:
        ExportError: a number is not finite, or a file cannot be read back.
        OSError: the disk is full or not writable.
    """
    out, words = [], plan.words
    each = zip(words.words, suffixes(words), _of_each(weights, words), strict=True)
    for word, suffix, tensors in each:
        path = folder / f"embedding{suffix}.safetensors"
        write_changed(path, serialize(tensors, _about(word, metadata)))
        try:
            found, _ = read_safetensors(path)
        except FileError as error:
            raise ExportError(f"Embedding {path.name!r} cannot be read back: {error}") from None
        if any(not torch.equal(found.get(k, tensors[k][:0]), t) for k, t in tensors.items()):
            raise ExportError(f"Embedding {path.name!r} does not hold what was written.")
        out.append((word, suffix, path))
    return out


def _about(word: str, metadata: Mapping[str, str]) -> dict[str, str]:
    kept = ("title", "author", "license", "description", "date", "implementation")
    about = {f"modelspec.{k}": metadata.get(f"modelspec.{k}") for k in kept}
    about |= {k: metadata.get(k) for k in ("ss_base_model_version", "troupe.run_digest")}
    about |= {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURE,
        "modelspec.usage_hint": f"embedding:NAME stands for {word!r}",
        "troupe.word": word,
    }
    return {k: v for k, v in about.items() if v is not None}


def bundled_name(plan: "Plan", suffix: str) -> str:
    """The name of a word inside the LoRA file; empty where it is not there."""
    return embedding_name(plan) + suffix if plan.job.embedding.bundle else ""


def bundled(weights: Mapping[str, torch.Tensor], plan: "Plan") -> dict[str, torch.Tensor]:
    """The vectors under the names they have inside a LoRA file, if the job wants them there."""
    if not (plan.words and plan.job.embedding.bundle):
        return {}
    each = zip(suffixes(plan.words), _of_each(weights, plan.words), strict=True)
    return {
        f"{BUNDLE}{bundled_name(plan, suffix)}.{key}": tensor
        for suffix, tensors in each
        for key, tensor in tensors.items()
    }


def verify_bundled(key: str, tensor: torch.Tensor) -> None:
    """Refuse a bundled tensor that no program would read.

    Raises:
        ExportError: names the key.
    """
    parts = key.split(".")
    sound = len(parts) == 3 and parts[1] and parts[2] in KEYS and tensor.ndim == 2
    if not sound or not torch.isfinite(tensor).all():
        raise ExportError(f"LoRA key {key!r} is no embedding: nothing loads it.")


def bundles_in(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """name -> key -> vectors of the embeddings inside a LoRA file."""
    out: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if is_bundled(key, tensor):
            name, _, part = key.removeprefix(BUNDLE).partition(".")
            out.setdefault(name, {})[part] = tensor.reshape(-1, tensor.shape[-1])
    return out


def is_embedding(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file's tensors are an embedding of SDXL, and nothing else."""
    return set(tensors) == set(KEYS) and all(t.ndim == 2 for t in tensors.values())


def describe(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What is known about an embedding, ready for JSON."""
    return {
        "name": name,
        "vectors": {k: len(t) for k, t in tensors.items()},
        "channels": {k: t.shape[-1] for k, t in tensors.items()},
        "lengths": {k: round(float(t.float().norm(dim=-1).mean()), 4) for k, t in tensors.items()},
        "sound": all(bool(torch.isfinite(t).all()) for t in tensors.values()),
    }


def say(facts: Mapping[str, Any]) -> str:
    """The same for people, on one line."""
    parts = [
        f"{key} {count} x {facts['channels'][key]} (mean length {facts['lengths'][key]:g})"
        for key, count in facts["vectors"].items()
    ]
    wrong = "" if facts["sound"] else "; holds NaN or infinity"
    return f"embedding {facts['name']}: {', '.join(parts)}{wrong}"
