"""Text encoders that stay in memory because they are trained: texts are encoded in every step."""

import torch

from .plan import Plan
from .text import TextEncoding


class LiveText:
    """Both text encoders of a plan, beside the UNet, with gradients.

    A text is encoded alone, so that what it becomes does not depend on its neighbours.
    """

    def __init__(self, plan: Plan):
        self._encoding = TextEncoding(
            plan.checkpoint, plan.job.base.tokenizer, plan.dtype, plan.device
        )
        self._limit = plan.job.captions.max_tokens
        if plan.checkpointing:
            for model in self.models:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})

    @property
    def models(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """CLIP-L and bigG."""
        return self._encoding.models

    def encode(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(context (77 k, C), pooled (P,)) on the training device."""
        ids_l, ids_g, _ = self._encoding.chunks(text, self._limit)
        context, pooled = self._encoding.encode_ids(ids_l, ids_g)
        return context.flatten(0, 1), pooled[0]
