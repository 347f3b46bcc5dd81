"""Captions to what the UNet reads: SDXL's two text encoders and their tokenizer."""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load_text_encoders
from .errors import CheckpointError, JobError

MAX_TOKENS = 77  # what a text encoder reads at once, start and end included
CHUNK = MAX_TOKENS - 2
# CLIP-L was trained with the end token as padding, OpenCLIP bigG with zeros.
PADDING = (49407, 0)
START, END = 49406, 49407
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
                f"Setting 'base.tokenizer': {name} is not in {folder!r}; give the folder "
                "comfy/sd1_tokenizer of a ComfyUI."
            )
        digest.update(path.read_bytes())
    return digest.hexdigest()


class TextEncoding:
    """Both text encoders of a checkpoint, on one device, until it is dropped."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer_dir: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        from transformers import CLIPTokenizer

        tokenizer_digest(tokenizer_dir)
        self._tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
        self._models = load_text_encoders(checkpoint, dtype, device)
        self._device = device
        width = self._models[1].config.projection_dim
        if width != checkpoint.pooled_channels:
            raise CheckpointError(
                f"Checkpoint {checkpoint.path.name!r}: its UNet and text encoder do not belong "
                f"together ({checkpoint.pooled_channels} and {width} pooled channels)."
            )

    @property
    def models(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """CLIP-L and bigG."""
        return self._models

    def tokens(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
        """(ids for CLIP-L, ids for bigG, which captions were cut), ids (B, 77)."""
        parts = [self.chunks(caption, CHUNK) for caption in captions]
        ids = [torch.cat([part[side] for part in parts]) for side in (0, 1)]
        return ids[0], ids[1], [part[2] > CHUNK for part in parts]

    def chunks(self, caption: str, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(ids for CLIP-L, ids for bigG, length of the caption), ids (k, 77), length in tokens.

        As ComfyUI reads a text: 75 tokens at a time, each part between a start and an end token,
        the last one padded. What lies beyond `max_tokens` is left out.
        """
        row = self._tokenizer([caption], truncation=False, verbose=False).input_ids[0][1:-1]
        read = row[:max_tokens]
        parts = [read[i : i + CHUNK] for i in range(0, len(read), CHUNK)] or [[]]
        padded = [
            torch.tensor([[START, *p, END] + [pad] * (CHUNK - len(p)) for p in parts])
            for pad in PADDING
        ]
        return padded[0], padded[1], len(row)

    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(context, pooled): (B, 77, C) penultimate states side by side, and (B, P)."""
        return self._encode(*self.tokens(captions)[:2])

    def encode_long(self, caption: str, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(context, pooled, length) of one caption: (77 k, C), (P,), tokens before the cut.

        The parts are encoded one by one and joined; the pooled state is the first part's, as in
        ComfyUI.
        """
        ids_l, ids_g, length = self.chunks(caption, max_tokens)
        context, pooled = self._encode(ids_l, ids_g)
        return context.flatten(0, 1), pooled[0], length

    @torch.no_grad()
    def _encode(
        self, ids_l: torch.Tensor, ids_g: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode_ids(ids_l, ids_g)

    def encode_ids(
        self, ids_l: torch.Tensor, ids_g: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(context, pooled) of tokens, with gradients where the encoders are being trained."""
        states, pooled = [], None
        for model, ids in zip(self._models, (ids_l, ids_g), strict=True):
            output = model(ids.to(self._device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = getattr(output, "text_embeds", None)
        return torch.cat(states, dim=-1), pooled


def stack_contexts(contexts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Contexts (T_i, C) of different lengths as (B, T, C), T their least common multiple.

    Each is repeated to that length: attention over a sequence and over its repetition are the same,
    so a caption means the same beside any other. ComfyUI pads its batches this way.
    """
    length = math.lcm(*(len(context) for context in contexts))
    return torch.stack([c.repeat(length // len(c), 1) for c in contexts])
