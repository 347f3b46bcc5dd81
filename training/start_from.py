"""Go on from a LoRA that exists, whoever trained it: its effect is where training starts."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .bake import resize_layer
from .errors import FileError, JobError
from .fileops import require_sound
from .lora_names import Names
from .lorafile import LoraFile, read_lora

if TYPE_CHECKING:
    from .adapter import Adapter
    from .job import TrainingJob

log = logging.getLogger(__name__)


def start_digest(job: "TrainingJob", unet_config: dict) -> dict[str, str]:
    """{"start": sha256 of the file}, or {} where there is none.

    Raises:
        FileError: it cannot be read or is no adapter.
    """
    path = job.adapter.start_from
    if not path:
        return {}
    require_sound(read_lora(Path(path), Names(unet_config)))
    return {"start": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


@torch.no_grad()
def start_from(adapter: "Adapter", path: str) -> None:
    """Give a fresh LoRA adapter the effect of a file.

    A file of a higher rank or of another kind is brought to the adapter's ranks as well as these
    can hold it; rows that are left over start as in any LoRA.

    Raises:
        FileError: it cannot be read.
        JobError: none of its layers is trained.
    """
    file = read_lora(Path(path), Names(dict(adapter.unet.config)))
    require_sound(file)
    used, kept = set(), 1.0
    for plan in adapter.plans:
        if plan.key in file.layers:
            kept = min(kept, _fill(adapter, plan, file))
            used.add(plan.key)
    if not used:
        raise JobError(
            f"Setting 'adapter.start_from': no layer of {file.path.name!r} is trained by this job."
        )
    left = len(set(file.layers) - used)
    if left:
        log.warning("%d layers of %s are not trained and left behind", left, file.path.name)
    if kept < 0.9999:
        log.warning("Ranks of this job hold %.4f of the change of %s", kept, file.path.name)


def _fill(adapter: "Adapter", plan, file: LoraFile) -> float:
    layer = adapter.layer(plan)
    parts = file.layers[plan.key]
    try:
        baked = resize_layer(plan.key, parts, plan.rank, None, layer.get_base_layer().weight)
    except FileError as error:
        raise FileError(f"{file.path.name}: layer {plan.key!r}: {error}.") from None
    tensors = adapter.kind.tensors(layer)
    down, up = tensors["down"], tensors["up"]
    # half of what our own scale would add or take, on each side
    size = layer.scaling["default"] ** -0.5
    first, second = baked.parts["lora_down.weight"], baked.parts["lora_up.weight"]
    if first.shape[1:] != down.shape[1:] and first[0].numel() == down[0].numel():
        first = first.view(-1, *down.shape[1:])
        second = second.view(*second.shape[:2], *up.shape[2:])
    if first.shape[1:] != down.shape[1:] or len(second) != len(up):
        raise FileError(f"{file.path.name}: layer {plan.key!r} was made for another model.")
    down[: len(first)] = first * size
    up[:, : len(first)] = second * size
    return baked.kept
