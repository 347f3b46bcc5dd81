"""Several processes train one adapter: torch.distributed, started by us, torchrun or accelerate.

Every process draws the same batch and the same noise (rng.py) and computes its share of the
pictures; gradients are added up before they are clipped, so all make the same step and end with the
weights of one process with the whole batch. The first process alone writes, samples and decides
when to stop.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch

PATIENCE = timedelta(hours=12)  # the others wait while the first encodes, samples or saves

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Who this process is among those that train together.

    Attributes:
        rank: its number, 0 for the one that writes.
        size: how many there are.
        local: its number on this machine, which is that of its device.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0

    def share(self, values: T, count: int) -> T:
        """This process' part of a dataclass of batches: every tensor of `count` rows is cut.

        Args:
            count: pictures in the whole batch; may be fewer than there are processes.
        """
        return replace(
            values,
            **{
                f.name: value[self.rank :: self.size]
                for f in fields(values)
                if isinstance(value := getattr(values, f.name), torch.Tensor)
                and value.ndim
                and len(value) == count
            },
        )

    def add_gradients(
        self, parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor
    ) -> torch.Tensor:
        """Sum gradients over all processes, in place; returns the summed loss.

        One exchange for all of them, in float32; a parameter without gradient counts as zero,
        except one that learns in no process.
        """
        if self.size == 1:
            return loss
        parameters = [p for p in parameters if p.requires_grad]
        parts = [loss.detach().float().reshape(1)]
        for p in parameters:
            parts.append((torch.zeros_like(p) if p.grad is None else p.grad).float().reshape(-1))
        flat = _added_up(torch.cat(parts))
        start = 1
        for p in parameters:
            p.grad = flat[start : start + p.numel()].view_as(p).to(p.dtype)
            start += p.numel()
        return flat[0]

    def agree(self, value: Any) -> Any:
        """What the first process says; the others' `value` is ignored."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=_exchange_device())
        return box[0]

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Inside, the processes can talk to each other."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if os.name == "nt" and lacks_libuv(torch.__version__):
            os.environ.setdefault("USE_LIBUV", "0")
        torch.distributed.init_process_group(backend_for(device), timeout=PATIENCE)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


def backend_for(device: torch.device) -> str:
    """NCCL for graphics cards where it is built in, which it is not on Windows."""
    nccl = device.type == "cuda" and torch.distributed.is_nccl_available()
    return "nccl" if nccl else "gloo"


def lacks_libuv(version: str) -> bool:
    """Whether this torch wants libuv by default and has none of it on Windows: 2.4 to 2.6."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return (2, 4) <= (major, minor) < (2, 7)


def _added_up(flat: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; gloo is sure to do it in main memory only."""
    shared = flat if torch.distributed.get_backend() == "nccl" else flat.cpu()
    torch.distributed.all_reduce(shared)
    return shared.to(flat.device)


def _exchange_device() -> torch.device | None:
    nccl = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else None


def find_team() -> Team:
    """Who this process is, as torchrun, accelerate and `launch.py` tell by environment."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2:
        return Team()
    rank = int(os.environ.get("RANK", "0"))
    return Team(rank, size, int(os.environ.get("LOCAL_RANK", str(rank))))
