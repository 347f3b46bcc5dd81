"""Captions to what the UNet reads: SDXL's two text encoders and their tokenizer."""

import math
from collections.abc import Sequence

import torch

from .checkpoint import Checkpoint, load_text_encoders
from .errors import CheckpointError
from .tokens import CHUNK, Tokenizer, Words


class TextEncoding:
    """Both text encoders of a checkpoint, on one device, until it is dropped."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer_dir: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self.tokenizer = Tokenizer(tokenizer_dir)
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

    def chunks(
        self, caption: str, max_tokens: int, words: Words | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """See `Tokenizer.chunks`."""
        return self.tokenizer.chunks(caption, max_tokens, words)

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
