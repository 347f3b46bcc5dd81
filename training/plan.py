"""Before anything expensive: look at everything the job names, decide, and say so."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .augment import RANDOM_CROP
from .buckets import Placement, plan_buckets
from .checkpoint import Checkpoint, empty_models, open_checkpoint
from .dataset import open_dataset
from .embedding import find_words
from .errors import CheckpointError, DatasetError, JobError
from .fused_backward import refusal
from .job import LONGEST_FOLDER, TrainingJob
from .layout import text_config_from_keys, vae_config_from_keys
from .memory import (
    NO_PLAN,
    WEIGHT_BYTES,
    MemoryPlan,
    choose,
    limit_of,
    needs_of,
    stored_bytes,
)
from .optimize import check_optimizer
from .processes import Team, find_team
from .records import Dataset, DatasetItem
from .sampler import BatchSampler
from .settings import identity_digest
from .start_from import start_digest
from .streaming import checkpointing, pieces_of, with_streaming
from .tokens import Words, tokenizer_digest
from .validation import split

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
ROUNDED_KINDS = ("lora", "loha", "lokr")  # those that leave the frozen weights alone


@dataclass(frozen=True)
class Plan:
    """A job with every "auto" decided and every file looked at.

    Attributes:
        digest: identity of the run: same digest, same LoRA.
        run_dir: where the run lives; an older run of the same digest is found again.
        precision: "bf16" or "fp32", of the frozen model.
        prediction: "epsilon" or "v_prediction".
        zero_terminal_snr: whether the last noise step holds no signal.
        resolution: side in pixels of the square bucket.
        words: new words that are learnt, if any.
        held_out: pictures that are not trained on but measured, see `validation`.
        memory: what it will need, and what is computed twice to make it fit.
        team: the processes that train together; a batch is `batch.size` pictures for each.
    """

    job: TrainingJob
    checkpoint: Checkpoint
    dataset: Dataset
    placements: tuple[Placement, ...]
    digest: str
    run_dir: Path
    cache_dir: Path
    device: torch.device
    precision: str
    prediction: str
    zero_terminal_snr: bool
    resolution: int
    checkpointing: bool
    memory: MemoryPlan = NO_PLAN
    team: Team = Team()
    held_out: tuple[Placement, ...] = ()
    words: Words | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen model computes in."""
        return DTYPES[self.precision]

    @property
    def encoded(self) -> tuple[Placement, ...]:
        """Everything that needs latents: what is trained, then what is held out."""
        return self.placements + self.held_out

    @property
    def sampler(self) -> BatchSampler:
        """The order of the batches."""
        job = self.job
        size = job.batch.size * self.team.size
        return BatchSampler(self.placements, size, job.seed, job.prior.ratio)

    def memory_for(
        self, budget_gb: float, device: torch.device | None = None, **changes: Any
    ) -> MemoryPlan:
        """The memory plan if so much could be used, on this or another kind of device.

        Args:
            changes: further settings of the section `memory`.
        """
        change = {"budget_gb": budget_gb, "gradient_checkpointing": "auto", **changes}
        memory = self.job.memory.model_copy(update=change)
        job = self.job.model_copy(update={"memory": memory})
        device = device or self.device
        return _memory(job, self.checkpoint, _largest(self.placements), self.precision, device)

    def summary(self) -> dict[str, Any]:
        """What the `plan` event says."""
        buckets = Counter(p.bucket_size for p in self.placements)
        return {
            "run": str(self.run_dir),
            "digest": self.digest,
            "checkpoint": self.checkpoint.path.name,
            "pictures": len(self.placements),
            "held_out": len(self.held_out),
            "buckets": {f"{w}x{h}": n for (w, h), n in sorted(buckets.items())},
            "batches_per_epoch": self.sampler.per_epoch,
            "steps": self.job.schedule.steps,
            "resolution": self.resolution,
            "device": str(self.device),
            "precision": self.precision,
            "prediction": self.prediction,
            "zero_terminal_snr": self.zero_terminal_snr,
            "gradient_checkpointing": self.checkpointing,
            "memory": self.memory.summary(),
            "processes": self.team.size,
        }


def make_plan(job: TrainingJob) -> Plan:
    """Check everything a run depends on; nothing is computed and nothing written.

    Raises:
        TrainingError: JobError, CheckpointError or DatasetError, see their docstrings.
    """
    team = find_team()
    device = _device(job.memory.device, team)
    precision = _precision(job.memory.precision, device)
    check_optimizer(job.optimizer)
    tokenizer = tokenizer_digest(job.base.tokenizer)
    checkpoint = open_checkpoint(job.base.checkpoint)
    _require_parts(checkpoint)
    dataset = open_dataset(job.dataset)
    if not dataset.items:
        raise DatasetError(
            f"Dataset {dataset.name!r} holds no usable picture: add .png or .jpg files."
        )
    resolution = job.buckets.resolution or checkpoint.native_resolution
    seen = dataset.digest  # before the split: it follows from the content and the settings
    dataset, held_out = split(dataset, job)
    placements = _placements(dataset, job, resolution)
    prediction = job.objective.prediction
    prediction = checkpoint.prediction_type if prediction == "auto" else prediction
    terminal = _zero_terminal_snr(job, checkpoint, prediction)
    words = find_words(job, dataset)
    decided = {
        "buckets.resolution": resolution,
        "memory.precision": precision,
        "objective.prediction": prediction,
        "objective.zero_terminal_snr": terminal,
        "batch.size": job.batch.size * team.size,
    }
    if words:
        decided["embedding.words"] = [word.lower() for word in words.words]
    digest = identity_digest(
        job,
        decided,
        checkpoint=checkpoint.fingerprint(),
        dataset=seen,
        tokenizer=tokenizer,
        **start_digest(job, checkpoint.unet_config),
    )
    memory = _memory(job, checkpoint, _largest(placements), precision, device)
    runs = Path(job.folders.runs)
    return Plan(
        job=job,
        checkpoint=checkpoint,
        dataset=dataset,
        placements=tuple(placements),
        digest=digest,
        run_dir=_run_dir(runs, job.name, digest),
        cache_dir=Path(job.folders.cache) if job.folders.cache else runs / ".cache",
        device=device,
        precision=precision,
        prediction=prediction,
        zero_terminal_snr=terminal,
        resolution=resolution,
        checkpointing=bool(memory.twice),
        memory=memory,
        team=team,
        held_out=tuple(_place(held_out, job, resolution)),
        words=words,
    )


def forecast(job: TrainingJob) -> tuple[int, torch.device, MemoryPlan]:
    """(resolution, device, memory for square pictures) of a job whose pictures are not looked at.

    Raises:
        TrainingError: JobError or CheckpointError, see their docstrings.
    """
    device = _device(job.memory.device, find_team())
    checkpoint = open_checkpoint(job.base.checkpoint)
    side = job.buckets.resolution or checkpoint.native_resolution
    precision = _precision(job.memory.precision, device)
    return side, device, _memory(job, checkpoint, (side, side), precision, device)


def _placements(dataset: Dataset, job: TrainingJob, resolution: int) -> list[Placement]:
    """Every picture at every resolution, equal samples once."""
    if all(item.prior for item in dataset.items):
        raise DatasetError(
            f"Dataset {dataset.name!r} holds regularisation pictures only: add what to learn."
        )
    found = _place(dataset.items, job, resolution)
    for other in job.buckets.further:
        found += _place(dataset.items, job, other, bounded=False)
    return list(dict.fromkeys(found)) if job.buckets.further else found


def _place(
    items: Sequence[DatasetItem], job: TrainingJob, resolution: int, bounded: bool = True
) -> list[Placement]:
    sizes = job.buckets
    crop = "center" if sizes.crop == RANDOM_CROP else sizes.crop
    bounds = (sizes.min_size, sizes.max_size) if bounded else (None, None)
    return plan_buckets(items, resolution, sizes.step, *bounds, sizes.upscale, crop)


def _require_parts(checkpoint: Checkpoint) -> None:
    try:
        for part in ("text_l", "text_g"):
            text_config_from_keys(checkpoint.part_shapes(part), part)
        vae = checkpoint.part_shapes("vae")
        if "taesd_encoder.0.weight" not in vae:
            vae_config_from_keys(vae)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {checkpoint.path.name!r}: {error}") from None


def _zero_terminal_snr(job: TrainingJob, checkpoint: Checkpoint, prediction: str) -> bool:
    wanted = job.objective.zero_terminal_snr
    if wanted == "auto":
        return checkpoint.zero_terminal_snr
    if wanted == "on" and prediction == "epsilon":
        raise JobError(
            "Setting 'objective.zero_terminal_snr': a model that predicts noise learns nothing "
            "from a step that is all noise; choose off, or a v-prediction checkpoint."
        )
    return wanted == "on"


def _run_dir(runs: Path, name: str, digest: str) -> Path:
    ending = f"-{digest[:12]}"
    if runs.is_dir():
        for folder in sorted(runs.iterdir()):
            if folder.name.endswith(ending) and folder.is_dir():
                return folder
    return runs / f"{name[:LONGEST_FOLDER]}{ending}"


def _device(wanted: str, team: Team) -> torch.device:
    if team.size > 1 and wanted in ("auto", "cuda") and torch.cuda.is_available():
        wanted = f"cuda:{team.local}"
    if wanted == "auto":
        found = torch.accelerator.is_available()
        return torch.accelerator.current_accelerator() if found else torch.device("cpu")
    device = torch.device(wanted)
    if device.type != "cpu":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "not available"
            raise JobError(
                f"Setting 'memory.device': {wanted} cannot be used ({reason})."
            ) from None
    return device


def _precision(wanted: str, device: torch.device) -> str:
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "xpu" else "fp32"


def _largest(placements: Sequence[Placement]) -> tuple[int, int]:
    return max((p.bucket_size for p in placements), key=lambda wh: wh[0] * wh[1])


def _memory(
    job: TrainingJob,
    checkpoint: Checkpoint,
    size: tuple[int, int],
    precision: str,
    device: torch.device,
) -> MemoryPlan:
    if job.memory.base_weights != "full" and job.adapter.kind not in ROUNDED_KINDS:
        raise JobError(
            f"Setting 'memory.base_weights': {job.adapter.kind} needs the model's own weights; "
            f"choose full, or adapter.kind {', '.join(ROUNDED_KINDS)}."
        )
    refused = refusal(job, find_team().size)
    if refused and job.memory.fused_backward == "on":
        raise JobError(f"Setting 'memory.fused_backward': on needs {refused}; or choose auto.")
    shapes = checkpoint.part_shapes("unet")
    models = empty_models(checkpoint, job.reads_live)
    needs = needs_of(job, models, checkpoint.unet_config, shapes, size, precision, device)
    fused = "off" if refused else job.memory.fused_backward
    plan = choose(needs, checkpointing(job), limit_of(job, device), fused)
    pieces = pieces_of(
        checkpoint.unet_config,
        shapes,
        lambda shape: stored_bytes(job, shape, WEIGHT_BYTES[precision]),
    )
    return with_streaming(job, plan, pieces, device)
