"""The sections of a job about what is trained: the adapter, its layers, the text encoders."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .fields import Section, outside, setting
from .filenames import unwritable
from .kinds import KINDS
from .targets import TARGETS

Pattern = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.*?\[\]-]+$")]
Rank = Annotated[int, Field(ge=0, le=512)]
Factor = Annotated[float, Field(gt=0, le=100)]
MAX_PATTERNS = 256


class AdapterSettings(Section):
    """What is trained: small matrices beside the frozen model."""

    kind: Literal[tuple(KINDS)] = setting(
        "lora", "Kind of adapter. " + " ".join(f"{k.name}: {k.help}" for k in KINDS.values())
    )
    rank: int = setting(
        16,
        "Rank of the LoRA: more learns more detail and makes a larger file.",
        ge=1,
        le=512,
    )
    alpha: float | None = setting(
        None,
        "The LoRA's effect is scaled by alpha / rank; empty: alpha = rank, no scaling.",
        gt=0,
        le=4096,
    )
    targets: Literal[tuple(TARGETS)] = setting(
        "transformer",
        "Which layers of the UNet get an adapter. "
        + " ".join(f"{t.name}: {t.help}" for t in TARGETS.values()),
    )
    layers: list[Pattern] = setting(
        [],
        "Names of layers or blocks instead of targets, in diffusers' words, * for any letters: "
        "up_blocks.0.attentions.1, mid_block, attn2.",
        max_length=MAX_PATTERNS,
    )
    block_ranks: dict[Pattern, Rank] = setting(
        {},
        "Ranks of single blocks, such as {mid_block: 32, text_encoder: 4}; 0 leaves a block out.",
        max_length=MAX_PATTERNS,
    )
    block_rates: dict[Pattern, Factor] = setting(
        {},
        "Factors of the learning rate for single blocks, such as {down_blocks: 0.5}.",
        max_length=MAX_PATTERNS,
    )
    dropout: float = setting(
        0.0, "Chance that an input of an adapter is dropped in a step.", ge=0, le=0.9
    )
    rank_dropout: float = setting(
        0.0, "Chance that a rank of an adapter is dropped in a step.", ge=0, le=0.9
    )
    module_dropout: float = setting(
        0.0, "Chance that a whole adapter is dropped in a step.", ge=0, le=0.9
    )
    start_from: str = outside(
        "",
        "LoRA file whose effect training goes on from, for kinds lora and rslora.",
        max_length=4096,
    )
    factor: int = setting(
        -1, "LoKr: size of the small factor of each weight; -1 = as square as it goes.", ge=-1
    )

    @model_validator(mode="after")
    def _known_to_the_kind(self):
        kind = KINDS[self.kind]
        for name in ("dropout", "rank_dropout", "module_dropout"):
            if getattr(self, name) and name not in kind.dropouts:
                raise ValueError(f"{name} does not exist for {self.kind}: leave it 0")
        if self.start_from and self.kind not in ("lora", "rslora"):
            raise ValueError(f"start_from needs kind lora or rslora, not {self.kind}")
        if self.kind == "oft" and self.alpha is not None:
            raise ValueError("alpha does not exist for oft: leave it empty")
        if self.factor == 0:
            raise ValueError("factor should be -1 or at least 1")
        return self


class TextEncoderSettings(Section):
    """The two text encoders: frozen and cached, or trained with rates of their own."""

    learning_rate_1: float = setting(
        0.0, "Learning rate of the first text encoder (CLIP-L); 0 = it stays frozen.", ge=0, le=1
    )
    learning_rate_2: float = setting(
        0.0, "Learning rate of the second one (OpenCLIP bigG); 0 = it stays frozen.", ge=0, le=1
    )

    @property
    def trained(self) -> bool:
        """Whether one of them learns."""
        return bool(self.learning_rate_1 or self.learning_rate_2)


class EmbeddingSettings(Section):
    """New words, learnt together with the LoRA: vectors that prompts use as `embedding:NAME`."""

    vectors: int = setting(
        0,
        "How many vectors stand for a new word; 0 = none is learnt. 1 to 4 are usual: each takes "
        "the place of a token in every prompt.",
        ge=0,
        le=64,
    )
    words: str = setting(
        "",
        "The words in the captions that vectors replace, separated by commas; empty: the dataset's "
        "triggers.",
        max_length=1000,
    )
    init: str = setting(
        "",
        "What the vectors start as, such as 'woman' or 'red coat': no more tokens than vectors; "
        "for several words one text or one for each, separated by commas; empty: noise.",
        max_length=1000,
    )
    learning_rate: float = setting(
        3e-4, "Learning rate of the vectors; the schedule is that of the LoRA.", gt=0, le=1
    )
    until: float = setting(
        0.5,
        "Share of the steps in which the vectors learn; then they rest and the LoRA goes on with "
        "them.",
        gt=0,
        le=1,
    )
    keep_norm: float = setting(
        0.1,
        "How strongly the vectors are drawn to the mean length of the model's own: 0 = not at "
        "all, 1 = they have it always. Schedule-free optimizers do without.",
        ge=0,
        le=1,
    )
    name: str = outside(
        "",
        "Name of the embedding's file, for `embedding:NAME`; empty: that of the LoRA. With several "
        "words each is added to it.",
        max_length=100,
    )
    bundle: bool = outside(
        False,
        "Put the vectors into the LoRA file as well, as OneTrainer does; Apply LoRAs and Forge "
        "read them there. Core's Load LoRA needs the file of their own and complains of these "
        "keys.",
    )

    @field_validator("words")
    @classmethod
    def _words(cls, value: str) -> str:
        if any(c in "{}|\n\r" for c in value):
            raise ValueError("should be words or names, without braces and lines")
        return value

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w+@-]*", value):
            raise ValueError("should hold letters, digits, _ and - only: it becomes a file's name")
        if value and (reason := unwritable(value)):
            raise ValueError(f"the name {reason}: choose another")
        return value
