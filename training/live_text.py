"""Text encoders that stay in memory because something in them learns: texts are encoded anew."""

import torch

from .embedding import add_rows
from .optimize import OPTIMIZERS
from .plan import Plan
from .text import TextEncoding
from .tokens import Words

KEPT = 1000  # texts, of 0.6 MB each

Encoding = tuple[torch.Tensor, torch.Tensor]


class LiveText:
    """Both text encoders of a plan, beside the UNet, with gradients.

    A text is encoded alone, so that what it becomes does not depend on its neighbours.
    """

    def __init__(self, plan: Plan):
        job = plan.job
        self._encoding = TextEncoding(plan.checkpoint, job.base.tokenizer, plan.dtype, plan.device)
        self._limit = job.captions.max_tokens
        self._all = job.text_encoders.trained
        self._words = plan.words
        self._rows = []
        if plan.words:
            self._rows = add_rows(self.models, plan.words, job, self._encoding.tokenizer)
        # such an optimizer changes weights behind their counters
        self._may_keep = not (self._all or OPTIMIZERS[job.optimizer.kind].averages)
        self._kept: dict[str, tuple[list[int], Encoding]] = {}
        if plan.checkpointing:
            for model in self.models:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})

    @property
    def models(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """CLIP-L and bigG."""
        return self._encoding.models

    def reads(self, text: str) -> bool:
        """Whether a text now becomes something else than what is cached."""
        words = self._learnt()
        return self._all or (words is not None and words.named_in(text))

    def _learnt(self) -> Words | None:
        return self._words if all(m.enabled for m in self._rows) else None

    def encode(self, text: str) -> Encoding:
        """(context (77 k, C), pooled (P,)); kept in main memory once new words rest."""
        if not self._may_keep or any(m.rows.requires_grad for m in self._rows):
            return self._encode(text)
        written = [m.rows._version for m in self._rows]  # a running mean comes and goes
        kept = self._kept.get(text)
        if kept is None or kept[0] != written:
            with torch.no_grad():
                context, pooled = self._encode(text)
            kept = written, (context.cpu(), pooled.cpu())
            if text in self._kept or len(self._kept) < KEPT:
                self._kept[text] = kept
        return kept[1]

    def _encode(self, text: str) -> Encoding:
        ids_l, ids_g, _ = self._encoding.chunks(text, self._limit, self._learnt())
        context, pooled = self._encoding.encode_ids(ids_l, ids_g)
        return context.flatten(0, 1), pooled[0]
