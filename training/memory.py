"""Predict how much memory a run needs before it starts, and choose the fastest way that fits.

Needed are the frozen weights, the adapter with gradients and the optimizer's memory, what the
forward pass keeps (activations.py), and room to compute in. If that is too much, units are computed
twice, those first that give back most bytes for the work they cost.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .activations import Unit
from .adapter_size import AdapterSize, all_units, measure_adapter

if TYPE_CHECKING:
    from .job import TrainingJob

log = logging.getLogger(__name__)

GIB = 2**30
CONTEXT_BYTES = 0.4 * GIB  # what CUDA itself and its libraries take
SPARE_SHARE = 0.06  # left free: allocators round up
WORKSPACE_TENSORS = 5  # as large as the largest activation, alive at once inside one kernel's call
WORKSPACE_BYTES = 0.25 * GIB  # of cuDNN and cuBLAS
OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2.1, "lion": 4, "adafactor": 0.1, "prodigy": 16}
OPTIMIZER_BYTES["schedule_free"] = 8
OTHER_OPTIMIZER_BYTES = 12
# of each weight while weights move, when what the forward pass kept is gone: whole lists at once
STEP_BYTES = {"adamw": 0, "adamw_8bit": 0, "lion": 4, "adafactor": 0, "prodigy": 12}
OTHER_STEP_BYTES = 8
TWIN_BYTES = 8  # of bf16 weights: a float32 weight and gradient while they move
WEIGHT_BYTES = {"bf16": 2, "fp32": 4}
LEAST_GAIN = 0.02  # share of a step's work that fused_backward has to save
LARGE_RANK = 64  # from here on gradients are worth a word
SMALLEST_GB = 1e-3  # nothing fits, so everything is computed twice


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will need and how it is made to fit.

    Attributes:
        weights, adapter, gradients, activations, workspace: predicted bytes.
        apart: bytes of these that are never there together: where the backward pass has left
            gradients, activations are gone.
        total: their sum: the predicted peak.
        limit: bytes it has to fit into; None where nothing is known or asked.
        twice: names of the units that are computed twice.
        extra: share of a step's work that this costs.
        streamed: names of the pieces whose frozen weights wait in main memory, see `streaming`.
        streamed_bytes: how much that is.
        moved: bytes that are copied to the device in each step because of it.
        fused: whether each weight moves as soon as its gradient is there, see `fused_backward`.
    """

    weights: int
    adapter: int
    activations: int
    workspace: int
    limit: int | None
    twice: tuple[str, ...]
    extra: float
    streamed: tuple[str, ...] = ()
    streamed_bytes: int = 0
    moved: int = 0
    gradients: int = 0
    fused: bool = False
    apart: int = 0

    @property
    def total(self) -> int:
        """Predicted peak in bytes."""
        kept = self.weights + self.adapter + self.gradients
        return kept + self.activations + self.workspace - self.apart

    @property
    def fits(self) -> bool:
        """Whether the prediction is within the limit."""
        return self.limit is None or self.total <= self.limit

    def summary(self) -> dict[str, Any]:
        """For the `plan` event, in MiB."""
        names = ("weights", "adapter", "gradients", "activations", "workspace", "total")
        out: dict[str, Any] = {f"{n}_mb": round(getattr(self, n) / 2**20) for n in names}
        out["limit_mb"] = None if self.limit is None else round(self.limit / 2**20)
        out |= {"computed_twice": len(self.twice), "extra_work": round(self.extra, 3)}
        out |= {"streamed": len(self.streamed), "streamed_mb": round(self.streamed_bytes / 2**20)}
        return {**out, "moved_mb": round(self.moved / 2**20), "fused_backward": self.fused}


NO_PLAN = MemoryPlan(0, 0, 0, 0, None, (), 0.0)


@dataclass(frozen=True)
class Needs:
    """What the prediction is made of; see `needs_of`.

    Attributes:
        units: what the forward pass keeps, in elements of `element_bytes` bytes.
        weights, adapter, context: bytes that are there all the time.
        gradients: bytes of the adapter's gradients; gradients_fused: used up one by one.
        stepping: bytes that exist only while weights move, when `units` are gone.
    """

    units: Sequence[Unit]
    weights: int
    adapter: int
    element_bytes: int
    context: int
    gradients: int = 0
    gradients_fused: int = 0
    stepping: int = 0

    def plan(self, twice: Sequence[Unit], limit: int | None, fused: bool = False) -> MemoryPlan:
        """The prediction when the units in `twice` are computed twice.

        Args:
            fused: whether gradients are used one by one.
        """
        names = {u.name + u.kind for u in twice}
        kept = peak = together = 0
        learns = sum(u.learns for u in self.units)
        each, coming = self.gradients / max(1, learns), learns
        for u in self.units:
            again = u.name + u.kind in names
            kept += u.outside + (u.inputs if again else u.kept)
            peak = max(peak, u.peak if again else 0)
            # in its backward pass there are the gradients of all that comes after it, and its own
            there = (kept + again * u.peak) * self.element_bytes + coming * each
            together, coming = max(together, round(there)), coming - u.learns
        largest = max((u.peak for u in self.units), default=0) // 8
        work = sum(u.work for u in self.units) or 1
        activations = (kept + peak) * self.element_bytes
        workspace = WORKSPACE_TENSORS * largest * self.element_bytes
        apart = 0
        if not fused:
            apart = max(0, activations + self.gradients - together)
            workspace = max(workspace, self.stepping - activations + apart)
        return MemoryPlan(
            weights=self.weights,
            adapter=self.adapter,
            activations=activations,
            workspace=workspace + self.context,
            limit=limit,
            twice=tuple(u.name for u in twice),
            extra=sum(u.work for u in twice) / (2 * work),
            gradients=self.gradients_fused if fused else self.gradients,
            fused=fused,
            apart=apart,
        )


def needs_of(
    job: "TrainingJob",
    models: Mapping[str, torch.nn.Module],
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    size: tuple[int, int],
    precision: str,
    device: torch.device,
) -> Needs:
    """What a job needs.

    Args:
        models: the UNet, and text encoders if they stay in memory, without numbers
            (`empty_models`).
        config, shapes: of the UNet, as the checkpoint tells.
        size: (width, height) of the largest bucket in pixels.
        precision: "bf16" or "fp32".
    """
    element = WEIGHT_BYTES[precision]
    weights = sum(_numel(s) * stored_bytes(job, s, element) for s in shapes.values())
    texts = (model for name, model in models.items() if name != "unet")
    weights += sum(p.numel() for model in texts for p in model.parameters()) * element
    size_of = measure_adapter(models, job, torch.bfloat16 if element == 2 else torch.float32)
    walk = all_units(models, config, size, job.batch.size, size_of.loads)
    context = round(WORKSPACE_BYTES + CONTEXT_BYTES) if device.type == "cuda" else 0
    each = WEIGHT_BYTES[job.optimizer.weights]
    return Needs(
        walk,
        round(weights),
        adapter_bytes(job, size_of),
        element,
        context,
        gradients=size_of.trained * each,
        gradients_fused=size_of.largest * each,
        stepping=size_of.trained * _step_bytes(job),
    )


def _step_bytes(job: "TrainingJob") -> int:
    own = STEP_BYTES.get(job.optimizer.kind, OTHER_STEP_BYTES)
    return own + (TWIN_BYTES if job.optimizer.weights == "bf16" else 0)


def adapter_bytes(job: "TrainingJob", size: AdapterSize) -> int:
    """Bytes of the adapter, what its optimizer remembers, and the running mean."""
    optimizer = OPTIMIZER_BYTES.get(job.optimizer.kind, OTHER_OPTIMIZER_BYTES)
    beside = optimizer + (4 if job.optimizer.ema_decay else 0)
    own = WEIGHT_BYTES[job.optimizer.weights]
    return round(size.trained * (own + beside) + size.frozen * 4)


def stored_bytes(job: "TrainingJob", shape: tuple[int, ...], element: int) -> float:
    """Bytes of each number of a frozen tensor, `element` where it is not rounded."""
    if job.memory.base_weights != "full" and len(shape) == 2:
        return 1
    return element


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def choose(needs: Needs, wanted: str, limit: int | None, fused: str = "off") -> MemoryPlan:
    """The fastest plan that fits into `limit` bytes, else the smallest one.

    Args:
        wanted: "off", "selective", "on", or "auto" to compute twice only what has to be.
        fused: "off", "on", or "auto" to use up gradients one by one only where it has to be.
    """
    plan = _choose(needs, wanted, limit, fused == "on")
    if fused == "auto" and limit is not None and (plan.twice or not plan.fits):
        other = _choose(needs, wanted, limit, True)
        # many small steps cost a little, too
        if (other.fits and not plan.fits) or other.extra < plan.extra - LEAST_GAIN:
            return other
        if not plan.fits and other.total < plan.total:
            return other
    return plan


def _choose(needs: Needs, wanted: str, limit: int | None, fused: bool) -> MemoryPlan:
    free = [u for u in needs.units if u.saving > 0]
    if wanted == "off" or (wanted == "auto" and limit is None):
        return needs.plan([], limit, fused)
    if wanted == "on":
        return needs.plan(free, limit, fused)
    if wanted == "selective":  # the deepest level does most of the work for the least memory
        deepest = max(u.level for u in needs.units)
        return needs.plan([u for u in free if u.level < deepest], limit, fused)
    ordered = sorted(free, key=lambda u: u.work / u.saving)
    twice: list[Unit] = []
    plan = needs.plan(twice, limit, fused)
    while not plan.fits and ordered:
        twice.append(ordered.pop(0))
        plan = needs.plan(twice, limit, fused)
    return plan


def limit_of(job: "TrainingJob", device: torch.device) -> int | None:
    """Bytes a run may use: the job's budget, else what is free on the device."""
    if job.memory.budget_gb:
        return round(job.memory.budget_gb * GIB * (1 - SPARE_SHARE))
    if device.type != "cuda":
        return None
    return round(torch.cuda.mem_get_info(device)[0] * (1 - SPARE_SHARE))


def spill_warning(plan: MemoryPlan, job: "TrainingJob") -> str:
    """What to tell a user whose run will not fit, "" if it will."""
    if plan.fits:
        return ""
    need, have = plan.total / GIB, (plan.limit or 0) / GIB
    return (
        f"Training needs about {need:.1f} GB of memory and {have:.1f} GB are free: it will fail, "
        f"or be very slow where the driver spills into main memory. {advice(job)}"
    )


def advice(job: "TrainingJob") -> str:
    """What makes a job smaller, the cheapest first."""
    said = []
    if job.memory.gradient_checkpointing != "on":
        said.append("set memory.gradient_checkpointing to on")
    if job.batch.size > 1:
        said.append(f"lower batch.size from {job.batch.size} (batch.accumulation replaces it)")
    if job.memory.precision == "fp32":
        said.append("set memory.precision to bf16")
    if job.memory.base_weights == "full":
        said.append("set memory.base_weights to int8")
    if job.memory.fused_backward != "on" and job.adapter.rank >= LARGE_RANK:
        said.append("set memory.fused_backward to on with optimizer.max_grad_norm 0")
    if job.memory.stream_weights != "on" and torch.cuda.is_available():
        said.append("set memory.stream_weights to on")
    said.append("lower buckets.resolution")
    return "To need less: " + ", or ".join(said) + "."


def fitting(job: "TrainingJob", plan: MemoryPlan, least: MemoryPlan) -> str:
    """What to say after a run did not fit: its own need, and that of everything computed twice."""
    need, less = (f"{p.total / GIB:.1f} GB" for p in (plan, least))
    way = ""
    if (len(least.twice), len(least.streamed)) > (len(plan.twice), len(plan.streamed)):
        streamed = " and memory.stream_weights on" if least.streamed else ""
        way = f", {less} with memory.gradient_checkpointing on{streamed}"
    return f"this job needs about {need} by our estimate{way}. {advice(job)}"


def apply_plan(unet: torch.nn.Module, plan: MemoryPlan) -> None:
    """Mark the units of a UNet that are computed twice."""
    if not plan.twice:
        return
    unet.enable_gradient_checkpointing()  # sets the function; then each flag is set on its own
    chosen = set(plan.twice)
    for name, module in unet.named_modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = name in chosen


def main_memory_bytes() -> int | None:
    """Main memory that is free now, None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        import psutil  # ComfyUI requires it; training alone may do without

        return psutil.virtual_memory().available
    except (ImportError, OSError):
        log.warning("Free main memory is unknown: pip install psutil in this Python.")
        return None
