"""Words inside LoRA files: prompts of the CLIP that has the LoRA find them as `embedding:NAME`.

Core's loader passes over the vectors that trainers bundle with a LoRA (`bundle_emb.NAME.PART`) and
looks for words in folders only, so a word and its LoRA part as soon as one file is renamed or
trained anew. Here a CLIP with such a LoRA looks into a folder of that LoRA's words before all
others; core's own code reads the files, in every spelling it knows. (A first place in core's list
of folders is not enough: it makes a set of them.)
"""

import copy
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save

from ...training import BUNDLE, unwritable, write_bytes

PARTS = (".clip_l", ".clip_g", ".string_to_param.*")  # those that core reads
WRITABLE = re.compile(r"[\w@+-][\w.@+-]*")  # a name that ends where a prompt's word ends
FOLDER = "troupe_words"


def split_words(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The tensors of a LoRA file without its words, and name -> key -> vectors of these."""
    rest, words = {}, {}
    for key, tensor in tensors.items():
        part = next((p for p in PARTS if key.endswith(p)), "")
        name = key.removeprefix(BUNDLE).removesuffix(part)
        if key.startswith(BUNDLE) and part and WRITABLE.fullmatch(name) and not unwritable(name):
            words.setdefault(name, {})[key] = tensor
        else:
            rest[key] = tensor
    return rest, words


def with_words(clip: Any, words: Mapping[str, Mapping[str, torch.Tensor]]) -> Any:
    """A clone of a CLIP whose prompts know these words, in place of files of the same names.

    Raises:
        OSError: ComfyUI's temporary folder is not writable.
    """
    clip = clip.clone()
    folder = _write(words)
    clip.tokenizer = copy.copy(clip.tokenizer)
    for name, one in vars(clip.tokenizer).items():  # one for each text encoder
        if hasattr(one, "embedding_directory"):
            setattr(clip.tokenizer, name, _looks_here_first(one, folder))
    return clip


def _looks_here_first(tokenizer: Any, folder: Path) -> Any:
    """A copy of core's SDTokenizer that knows the words in `folder` before all others."""
    here, out = copy.copy(tokenizer), copy.copy(tokenizer)
    here.embedding_directory = [str(folder)]
    elsewhere = out._try_get_embedding

    def find(name: str) -> tuple:
        found = type(here)._try_get_embedding(here, name)
        return elsewhere(name) if found[0] is None else found

    out._try_get_embedding = find
    out.embedding_directory = tokenizer.embedding_directory or here.embedding_directory
    return out


def _write(words: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """A folder with a file for each word; the same words have the same folder."""
    files = {
        f"{name}.safetensors": save({k: v.detach().cpu().contiguous() for k, v in parts.items()})
        for name, parts in words.items()
    }
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    folder = Path(folder_paths.get_temp_directory()) / FOLDER / digest.hexdigest()[:32]
    for name, data in files.items():
        if not (folder / name).is_file():
            write_bytes(folder / name, data)
    return folder
