"""Texts to the numbers that SDXL's text encoders read, new words included."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .captions import holds_phrase
from .errors import JobError, quoted

MAX_TOKENS = 77  # what a text encoder reads at once, start and end included
CHUNK = MAX_TOKENS - 2
# CLIP-L was trained with the end token as padding, OpenCLIP bigG with zeros.
PADDING = (49407, 0)
START, END = 49406, 49407
NEW = 1 << 20  # number of a new word's first vector: above every vocabulary
SPLIT_FROM = 8  # ComfyUI moves shorter groups of tokens whole into the next part
TOKENIZER_FILES = ("vocab.json", "merges.txt")


def tokenizer_digest(folder: str) -> str:
    """sha256 of the tokenizer's files.

    Raises:
        JobError: the folder or one of its files is missing.
    """
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = Path(folder) / name
        if not folder or not os.path.isfile(path):
            raise JobError(
                f"Setting 'base.tokenizer': {name} is not in {quoted(folder)}; give the folder "
                "comfy/sd1_tokenizer of a ComfyUI."
            )
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Words:
    """Words that stand for new vectors: wherever a text names one, its vectors are read instead.

    Attributes:
        words: in the order of their vectors.
        vectors: how many each has.
    """

    words: tuple[str, ...]
    vectors: int

    def named_in(self, text: str) -> bool:
        """Whether `text` holds one of them, as a word of its own, in any case."""
        return any(holds_phrase(text, word) for word in self.words)

    def pieces(self, text: str) -> list[str | int]:
        """`text` in order, the number of a word where it was; the longest where several fit."""
        longest = sorted(range(len(self.words)), key=lambda n: -len(self.words[n]))
        choices = "|".join(f"({re.escape(self.words[n])})" for n in longest)
        out: list[str | int] = []
        end = 0
        for match in re.finditer(rf"(?<!\w)(?:{choices})(?!\w)", text, re.IGNORECASE):
            out += [text[end : match.start()], longest[match.lastindex - 1]]
            end = match.end()
        return [*out, text[end:]]

    def tokens(self, number: int) -> list[int]:
        """The numbers of a word's vectors."""
        return list(range(NEW + number * self.vectors, NEW + (number + 1) * self.vectors))


class Tokenizer:
    """CLIP's tokenizer, which both text encoders of SDXL share, from a folder of its files."""

    def __init__(self, folder: str):
        from transformers import CLIPTokenizer

        tokenizer_digest(folder)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def numbers(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""
        return self._tokenizer([text], truncation=False, verbose=False).input_ids[0][1:-1]

    def chunks(
        self, text: str, max_tokens: int, words: Words | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(ids for CLIP-L, ids for bigG, length of the text), ids (k, 77), length in tokens.

        As ComfyUI reads a text: 75 tokens at a time, each part between a start and an end token,
        the last one padded. New vectors and what stands between them are kept together while
        they are short. What lies beyond `max_tokens` is left out.
        """
        groups = [
            self.numbers(piece) if isinstance(piece, str) else words.tokens(piece)
            for piece in (words.pieces(text) if words else [text])
        ]
        parts = _parts(groups)[: max_tokens // CHUNK]
        padded = [
            torch.tensor([[START, *p, END] + [pad] * (CHUNK - len(p)) for p in parts])
            for pad in PADDING
        ]
        return padded[0], padded[1], sum(len(group) for group in groups)


def _parts(groups: list[list[int]]) -> list[list[int]]:
    """The groups one behind the other in parts of at most 75 tokens."""
    parts: list[list[int]] = [[]]
    for group in groups:
        splits = len(group) >= SPLIT_FROM
        while group:
            room = CHUNK - len(parts[-1])
            if len(group) <= room:
                parts[-1] += group
                break
            if splits:
                parts[-1] += group[:room]
                group = group[room:]
            parts.append([])
    return parts
