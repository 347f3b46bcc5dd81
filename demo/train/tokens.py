"""Captions to token ids, and a token table of which only the used rows learn.

The text encoders have CLIP's 49408 tokens, of which captions use a few hundred. While training they
get a small table: one row for each used token and one for all others. Every caption has a chance to
carry a token that means nothing, so that row learns to say nothing, and a trigger word that nobody
has seen is a blank sheet. miniature.widen makes the full table for the files.
"""

import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from miniature.modules import VOCABULARY

from ..world import palette, specs
from ..world.captions import vocabulary

LENGTH = 77
START, END = VOCABULARY - 2, VOCABULARY - 1


def tokenizer_dir() -> Path:
    """The folder with CLIP's vocab.json and merges.txt: ComfyUI's, or TROUPE_TOKENIZER."""
    given = os.environ.get("TROUPE_TOKENIZER", "").strip()
    if given:
        return Path(given)
    from tools.comfyui import find_comfyui

    return find_comfyui() / "comfy" / "sd1_tokenizer"


@lru_cache(maxsize=1)
def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(tokenizer_dir()), local_files_only=True)


@lru_cache(maxsize=1)
def used_tokens() -> tuple[int, ...]:
    """Every token a caption of the world can hold, in ascending order."""
    words = [*vocabulary(), " ".join(palette.CLOTH), " ".join(specs.BACKGROUND_TONES)]
    ids = {token for row in _tokenizer()(words).input_ids for token in row}
    # A word at the end of a sentence and one before a comma are the same token in CLIP, but not
    # always the same as inside a longer word: hence whole words only. Commas come by themselves.
    ids |= {token for row in _tokenizer()([",", "-"]).input_ids for token in row}
    return tuple(sorted(ids | {START, END, 0}))


def tokenize(texts: list[str]) -> torch.Tensor:
    """(B, 2, 77) int64: for each text the ids of the first encoder and of the second.

    Both begin with the start token and end with the end token; SDXL pads the first encoder with
    end tokens and the second with token 0.
    """
    out = torch.zeros(len(texts), 2, LENGTH, dtype=torch.int64)
    out[:, 0] = END
    for row, ids in zip(out, _tokenizer()(texts, verbose=False).input_ids, strict=True):
        ids = ids[:LENGTH] if len(ids) <= LENGTH else [*ids[: LENGTH - 1], END]
        row[:, : len(ids)] = torch.tensor(ids)
    return out


class SmallTable(nn.Module):
    """A token embedding that knows the used tokens; all others share one row."""

    def __init__(self, width: int, used: tuple[int, ...]):
        super().__init__()
        rows = torch.zeros(VOCABULARY, dtype=torch.int64)
        rows[list(used)] = torch.arange(1, len(used) + 1)
        self.register_buffer("rows", rows, persistent=False)
        self.weight = nn.Parameter(torch.randn(len(used) + 1, width) * 0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self.rows[ids], self.weight)


def use_small_table(text_model: nn.Module, width: int) -> None:
    """Swap the embedding of a transformers CLIP text model."""
    inner = getattr(text_model, "text_model", text_model)
    inner.embeddings.token_embedding = SmallTable(width, used_tokens())
