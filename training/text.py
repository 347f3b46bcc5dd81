"""Captions to what the UNet reads: SDXL's two text encoders and their tokenizer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load_text_encoders
from .errors import CheckpointError, JobError

MAX_TOKENS = 77
# CLIP-L was trained with the end token as padding, OpenCLIP bigG with zeros.
PADDING = (49407, 0)
END = 49407
TOKENIZER_FILES = ("vocab.json", "merges.txt")


def tokenizer_digest(folder: str) -> str:
    """sha256 of the tokenizer's files.

    Raises:
        JobError: the folder or one of its files is missing.
    """
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = Path(folder) / name
        if not folder or not path.is_file():
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

    def tokens(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
        """(ids for CLIP-L, ids for bigG, which captions were cut), ids (B, 77)."""
        rows = self._tokenizer(list(captions), truncation=False, verbose=False).input_ids
        cut = [len(row) > MAX_TOKENS for row in rows]
        rows = [row[: MAX_TOKENS - 1] + [END] if len(row) > MAX_TOKENS else row for row in rows]
        padded = [
            torch.tensor([row + [pad] * (MAX_TOKENS - len(row)) for row in rows]) for pad in PADDING
        ]
        return padded[0], padded[1], cut

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(context, pooled): (B, 77, C) penultimate states side by side, and (B, P)."""
        states, pooled = [], None
        for model, ids in zip(self._models, self.tokens(captions)[:2], strict=True):
            output = model(ids.to(self._device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = getattr(output, "text_embeds", None)
        return torch.cat(states, dim=-1), pooled
