"""New words: vectors that both text encoders read in their place, learnt beside the adapter.

Textual inversion (arXiv 2208.01618) together with a LoRA, which diffusers' advanced DreamBooth
script calls pivotal tuning: the word says who, the LoRA how it looks. The encoders stay frozen
unless they are trained as well; only the vectors learn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from .captions import holds_phrase
from .errors import JobError
from .rng import generator
from .tokens import NEW, Tokenizer, Words
from .variants import CaptionVariants

if TYPE_CHECKING:
    from .job import EmbeddingSettings, TrainingJob
    from .records import Dataset

KEYS = ("clip_l", "clip_g")  # what SDXL's two text encoders are called in embedding files
PREFIX = "embedding."  # of the vectors among an adapter's tensors


# -------------------------------------------------------------------------------- the words


def find_words(job: "TrainingJob", dataset: "Dataset") -> Words | None:
    """The new words of a job, the dataset's triggers if it names none; None if none is learnt.

    Args:
        dataset: what is trained on.

    Raises:
        JobError: there is no word, no caption holds it, it has a meaning already, or the first
            values do not fit.
    """
    settings = job.embedding
    if not settings.vectors:
        return None
    triggers = [i.trigger for i in dataset.items if i.trigger and not i.prior]
    named = [word.strip() for word in settings.words.split(",")]
    words = _each_once([word for word in named if word] or triggers)
    if not words:
        raise JobError(
            "Setting 'embedding.words': the dataset has no trigger: name the word that stands for "
            "what is learnt."
        )
    captions = CaptionVariants(job.captions, job.seed).all(dataset.items)
    tokenizer = Tokenizer(job.base.tokenizer)
    known = {trigger.lower() for trigger in triggers}
    for word in words:
        if not any(holds_phrase(caption, word) for caption in captions):
            raise JobError(
                f"Setting 'embedding.words': no caption names {word!r}: write it into the "
                "captions, or give the dataset this trigger."
            )
        if word.lower() not in known and len(tokenizer.numbers(word)) == 1:
            raise JobError(
                f"Setting 'embedding.words': {word!r} is a word the model knows, and would lose "
                "its meaning wherever captions use it: choose a word of your own, or make it the "
                "trigger."
            )
    found = Words(words, settings.vectors)
    _starts(settings, found, tokenizer)
    return found


def _each_once(words: Sequence[str]) -> tuple[str, ...]:
    out: dict[str, str] = {}
    for word in words:
        out.setdefault(word.lower(), word)
    return tuple(out.values())


def _starts(settings: "EmbeddingSettings", words: Words, tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens whose vectors are the first values of each word's, none for noise."""
    texts = [text.strip() for text in settings.init.split(",")]
    if len(words.words) == 1:  # which may start as a text with commas
        texts = [settings.init]
    if len(texts) == 1:
        texts *= len(words.words)
    if len(texts) != len(words.words):
        raise JobError(
            f"Setting 'embedding.init': {len(texts)} texts for the words "
            f"{', '.join(words.words)}: give one for all, or one for each."
        )
    out = [tokenizer.numbers(text) for text in texts]
    for text, numbers in zip(texts, out, strict=True):
        if len(numbers) > words.vectors:
            there = f"{words.vectors} vector" + ("s" if words.vectors > 1 else "")
            raise JobError(
                f"Setting 'embedding.init': {text!r} has {len(numbers)} tokens for {there}: raise "
                f"embedding.vectors to {len(numbers)}, or shorten it."
            )
    return out


# ------------------------------------------------------------------------------ the vectors


class NewRows(torch.nn.Module):
    """A text encoder's table of tokens with further rows, from token number `NEW` on.

    Args:
        table: the model's own embedding; stays frozen and untouched.
        rows: (W N, C) float32; cast to the table's type where they are read.
    """

    def __init__(self, table: torch.nn.Embedding, rows: torch.Tensor):
        super().__init__()
        self.table = table
        self.rows = torch.nn.Parameter(rows, requires_grad=False)
        self.enabled = True

    @property
    def weight(self) -> torch.Tensor:
        """The model's own rows."""
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        new = ids >= NEW
        known = self.table(torch.where(new, 0, ids))
        own = self.rows.to(known.dtype)[(ids - NEW).clamp(min=0)]
        return torch.where(new.unsqueeze(-1), own, known)


def add_rows(
    encoders: Sequence[torch.nn.Module],
    words: Words,
    job: "TrainingJob",
    tokenizer: Tokenizer,
) -> list[NewRows]:
    """Give both text encoders rows for new words, with their first values.

    These are the vectors of `embedding.init`, in turn if there are fewer, else noise as wide as
    the table.
    """
    starts, added = _starts(job.embedding, words, tokenizer), []
    for key, encoder in zip(KEYS, encoders, strict=True):
        table = encoder.get_input_embeddings()
        weight = table.weight.detach().float()
        rows = []
        for word, numbers in zip(words.words, starts, strict=True):
            if numbers:
                rows.append(weight[[numbers[i % len(numbers)] for i in range(words.vectors)]])
            else:
                random = generator(job.seed, "embedding", key, word.lower())
                noise = torch.randn(words.vectors, weight.shape[1], generator=random)
                rows.append(noise.to(weight.device) * weight.std())
        added.append(NewRows(table, torch.cat(rows)))
        encoder.set_input_embeddings(added[-1])
    return added


class NewWords:
    """The vectors of new words in both text encoders, as an adapter trains them."""

    def __init__(self, rows: Sequence[NewRows], job: "TrainingJob"):
        self._rows = list(rows)
        settings = job.embedding
        self._factor = settings.learning_rate / job.optimizer.learning_rate
        self._last = max(1, round(settings.until * job.schedule.steps))
        self._norms = [float(m.weight.float().norm(dim=-1).mean()) for m in rows]
        self.learn(0)

    @classmethod
    def of(cls, encoders: Sequence[torch.nn.Module], job: "TrainingJob") -> "NewWords | None":
        """The words that were added to these text encoders, None if there are none."""
        rows = [m for encoder in encoders for m in encoder.modules() if isinstance(m, NewRows)]
        return cls(rows, job) if rows else None

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Vectors (W N, C) of CLIP-L and of bigG."""
        return [module.rows for module in self._rows]

    def learn(self, number: int) -> None:
        """Let the vectors learn in step `number` (from 0), or rest for the remaining steps."""
        for rows in self.parameters:
            rows.requires_grad_(number < self._last)

    def complete_gradients(self) -> None:
        """A step whose captions name no new word is one of gradient zero, as for any row."""
        for rows in self.parameters:
            if rows.requires_grad and rows.grad is None:
                rows.grad = torch.zeros_like(rows)

    def group(self) -> dict:
        """As one of an optimizer's groups; "norms" are the lengths the vectors are drawn to."""
        return {
            "params": self.parameters,
            "factor": self._factor,
            "weight_decay": 0.0,
            "norms": self._norms,
        }

    def state(self) -> dict[str, torch.Tensor]:
        """The vectors by name, detached but not copied."""
        return {f"{PREFIX}{k}": p.detach() for k, p in zip(KEYS, self.parameters, strict=True)}

    def enable(self, enabled: bool) -> None:
        """Whether texts are read with the new vectors; see `LiveText`."""
        for module in self._rows:
            module.enabled = enabled


@torch.no_grad()
def draw_to_norm(rows: torch.Tensor, norm: float, strength: float) -> None:
    """Bring every row (N, C) a little nearer to a length, in place.

    diffusers' advanced script multiplies by (wanted / present)^0.1 after every step, by standard
    deviations; for each row by its length is the same with one vector.
    """
    lengths = rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    rows.mul_((norm / lengths) ** strength)


def vectors_of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vectors among an adapter's tensors, word by word: "clip_l" (W N, C_l), "clip_g"."""
    found = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    return {key: v.detach().cpu().float().contiguous() for key, v in found.items()}
