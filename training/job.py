"""TrainingJob: everything a run is told, and the one home of every default, bound and help text.

Node widgets, command line settings, messages and file metadata are made from these fields
(see settings.py). `identity=False` marks what does not change the trained weights: such fields
may differ between a run and its resumption.
"""

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator

from .adapter_settings import AdapterSettings, EmbeddingSettings, TextEncoderSettings
from .buckets import CROPS, STEPS, SUBJECT
from .compiled import MODES as COMPILE_MODES
from .data_settings import (
    AugmentSettings,
    CacheSettings,
    CaptionSettings,
    MaskSettings,
    PriorSettings,
)
from .fields import Section as _Section
from .fields import outside as _outside
from .fields import setting as _setting
from .filenames import unwritable, unwritable_path
from .learning_settings import (
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    ValidationSettings,
)
from .quantize import FORMATS
from .records import DatasetSettings

VERSION = 1
SMALLEST = 64  # pixels
LONGEST_FOLDER = 40  # letters: with all that lies in a run's folder, a path keeps below 260
FILE_PRECISIONS = ("fp16", "bf16", "fp32")


class BaseSettings(_Section):
    """The model that learns."""

    checkpoint: str = _outside(
        ..., "SDXL checkpoint to train on, a .safetensors file.", max_length=4096
    )
    tokenizer: str = _outside(
        "",
        "Folder with CLIP's vocab.json and merges.txt, such as ComfyUI's comfy/sd1_tokenizer.",
        max_length=4096,
    )


class BucketSettings(_Section):
    """The sizes pictures are trained at."""

    resolution: int = _setting(
        0,
        "Training resolution: pictures keep their shape, their area is at most this squared. "
        "0 = what the checkpoint's metadata names, else 1024.",
        ge=0,
        le=4096,
        multiple_of=8,
    )
    step: Literal[STEPS] = _setting(64, "Picture sides are multiples of this many pixels.")
    min_size: int | None = _setting(
        None, "Shortest side of a bucket in pixels; empty: half the resolution.", ge=64, le=8192
    )
    max_size: int | None = _setting(
        None, "Longest side of a bucket in pixels; empty: twice the resolution.", ge=64, le=8192
    )
    upscale: bool = _setting(
        False, "Enlarge small pictures to the resolution instead of using smaller buckets."
    )
    crop: Literal[(*CROPS, SUBJECT, "random")] = _setting(
        "center",
        "Which part stays when a picture is cut; subject: the one around what its mask shows; "
        "random: another one in every version (augment.variants).",
    )
    further: list[Annotated[int, Field(ge=SMALLEST, le=4096, multiple_of=8)]] = _setting(
        [], "Further resolutions that every picture is trained at, too.", max_length=8
    )

    @field_validator("resolution")
    @classmethod
    def _large_enough(cls, value: int) -> int:
        if 0 < value < SMALLEST:
            raise ValueError(f"should be 0 or at least {SMALLEST}")
        return value


class BatchSettings(_Section):
    """How many pictures one step sees."""

    size: int = _setting(
        1, "Pictures per forward pass: more is smoother but needs memory.", ge=1, le=256
    )
    accumulation: int = _setting(
        1, "Forward passes per step: smoother without more memory, but slower.", ge=1, le=1024
    )


class MemorySettings(_Section):
    """Where and how precisely it is computed."""

    device: str = _outside(
        "auto",
        "Device to train on: auto, cpu, cuda, cuda:1, mps, xpu.",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?|xpu(:\d+)?)$",
    )
    precision: Literal["auto", "bf16", "fp32"] = _setting(
        "auto",
        "Number format of the frozen model; the adapter is always fp32. "
        "auto: bf16 where the device computes in it, else fp32.",
    )
    gradient_checkpointing: Literal["auto", "selective", "on", "off"] = _outside(
        "auto",
        "Compute activations twice to save memory; selective: only where that is cheap; auto: "
        "only as much as has to be.",
    )
    budget_gb: float = _outside(
        0, "Memory a run may use on its device, in GB; 0 = what is free.", ge=0, le=4096
    )
    stream_weights: Literal["auto", "on", "off"] = _outside(
        "auto",
        "Keep frozen weights in main memory and copy each part to the device just before it "
        "computes; only what is computed twice is streamed. on: all that can be; auto: only where "
        "nothing else fits, and no more than has to be (budget_gb).",
    )
    fused_backward: Literal["auto", "on", "off"] = _outside(
        "auto",
        "Move each weight as soon as its gradient is there, so that gradients never stand in "
        "memory together; the same numbers. Needs optimizer.max_grad_norm 0 and one pass per step; "
        "auto: where that can be and makes a run fit.",
    )
    base_weights: Literal[FORMATS] = _setting(
        "full",
        "How the frozen model's linear layers are kept: in 8 bit (int8, fp8) they need half the "
        "memory, and are a little slower and less exact.",
    )
    compile: Literal[COMPILE_MODES] = _outside(
        "off",
        "Compile the UNet's blocks with torch.compile: minutes at the start, for faster steps; "
        "needs a C++ compiler, and triton on a GPU. The last bits of numbers differ.",
    )
    processes: int = _outside(
        1,
        "Processes that train together on this machine, one per GPU; each takes batch.size "
        "pictures per pass.",
        ge=1,
        le=64,
    )


class SampleSettings(_Section):
    """Pictures made while training, always from the same seeds."""

    every_steps: int = _outside(
        0, "Make sample pictures every so many steps; 0 = only at the end.", ge=0, le=1_000_000
    )
    at_end: bool = _outside(True, "Make sample pictures when training is done.")
    prompts: list[Annotated[str, Field(max_length=2000)]] = _outside(
        [], "Prompts of the sample pictures; empty: the first caption.", max_length=16
    )
    negative: str = _outside("", "Negative prompt.", max_length=2000)
    without_lora: bool = _outside(True, "Show each sample beside its twin without the LoRA.")
    steps: int = _outside(20, "Sampling steps.", ge=1, le=150)
    guidance: float = _outside(6.0, "Guidance scale.", ge=0, le=30)
    seed: int = _outside(0, "Seed of the first sample picture.", ge=0, lt=2**63)
    width: int = _outside(
        0, "Width in pixels; 0 = the training resolution.", ge=0, le=2048, multiple_of=8
    )
    height: int = _outside(
        0, "Height in pixels; 0 = the training resolution.", ge=0, le=2048, multiple_of=8
    )


class SavingSettings(_Section):
    """What is written, and when."""

    every_steps: int = _outside(
        250, "Save the full state every so many steps; 0 = by time only.", ge=0, le=1_000_000
    )
    every_minutes: float = _outside(
        10, "Save the full state after so many minutes; 0 = by steps only.", ge=0, le=10_000
    )
    keep: int = _outside(2, "How many full states are kept.", ge=1, le=100)
    precision: Literal[FILE_PRECISIONS] = _outside("fp16", "Number format of the LoRA file.")
    output: str = _outside(
        "",
        "File to write the finished LoRA to; empty: only lora.safetensors in the run folder.",
        max_length=4096,
    )
    tensorboard: bool = _outside(
        False, "Also write the curves for TensorBoard; needs the package tensorboard."
    )
    wandb: Literal["disabled", "offline", "online"] = _outside(
        "disabled",
        "Also log the curves with Weights & Biases, needs the package wandb; offline: into the "
        "run's folder, for 'wandb sync' later; online: after 'wandb login'.",
    )
    thumbnail: bool = _outside(True, "Put a small sample picture into the file's metadata.")
    diffusers: bool = _outside(
        False, "Also write lora_diffusers.safetensors, which diffusers and PEFT load."
    )
    diffusers_rank: int = _outside(
        64,
        "Rank of that file for kinds other than LoRA, which diffusers knows as LoRA only.",
        ge=1,
        le=512,
    )

    @field_validator("output")
    @classmethod
    def _writable(cls, value: str) -> str:
        """Of an absolute path only the name: its folders are this system's own business."""
        if os.path.isabs(value):
            reason = unwritable(os.path.basename(value))
        else:
            value = value.replace("\\", "/")  # as typed on Windows; no name holds one
            reason = unwritable_path(value)
        if reason:
            raise ValueError(f"the name {reason}: choose another")
        return value


class MetadataSettings(_Section):
    """What the file says about itself, beside the training settings."""

    title: str = _outside("", "Title named in the file; empty: the run's name.", max_length=200)
    author: str = _outside("", "Author named in the file.", max_length=200)
    license: str = _outside("", "Licence named in the file.", max_length=200)
    description: str = _outside("", "Description written into the file.", max_length=4000)
    usage_hint: str = _outside("", "How to use the LoRA, written into the file.", max_length=1000)
    tags: list[Annotated[str, Field(max_length=100)]] = _outside(
        [], "Words to find the LoRA by, written into the file.", max_length=64
    )


class FolderSettings(_Section):
    """Where runs and caches live."""

    runs: str = _outside("runs", "Folder that holds one folder per run.", max_length=4096)
    cache: str = _outside(
        "", "Folder of encoded pictures and captions; empty: runs/.cache.", max_length=4096
    )


class TrainingJob(_Section):
    """One training run, complete: the same job and data give the same LoRA."""

    version: Literal[VERSION] = _setting(VERSION, "Version of this format.")
    # bounds stand in the call and no length in a pattern: pydantic 2.0 refuses either otherwise
    name: str = _outside(
        "lora", "Name of the run, used in file names.", pattern=r"^\w[\w .()+@-]*$", max_length=100
    )
    seed: int = _setting(0, "Seed of every random number in training.", ge=0, lt=2**63)
    base: BaseSettings = Field(..., description=BaseSettings.__doc__)
    dataset: DatasetSettings = Field(..., description=DatasetSettings.__doc__)
    buckets: BucketSettings = Field(default_factory=BucketSettings)
    captions: CaptionSettings = Field(default_factory=CaptionSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    masks: MaskSettings = Field(default_factory=MaskSettings)
    prior: PriorSettings = Field(default_factory=PriorSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)
    text_encoders: TextEncoderSettings = Field(default_factory=TextEncoderSettings)
    embedding: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    batch: BatchSettings = Field(default_factory=BatchSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    samples: SampleSettings = Field(default_factory=SampleSettings)
    saving: SavingSettings = Field(default_factory=SavingSettings)
    metadata: MetadataSettings = Field(default_factory=MetadataSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    folders: FolderSettings = Field(default_factory=FolderSettings)

    @field_validator("name")
    @classmethod
    def _writable(cls, value: str) -> str:
        if reason := unwritable(f"{value[:LONGEST_FOLDER]}-run"):
            raise ValueError(f"the name {reason}: choose another")
        return value

    @property
    def reads_live(self) -> bool:
        """Whether captions are encoded in every step, because something in it learns."""
        return self.text_encoders.trained or bool(self.embedding.vectors)

    @property
    def alpha(self) -> float:
        """The adapter's alpha with the default filled in."""
        return float(self.adapter.rank if self.adapter.alpha is None else self.adapter.alpha)
