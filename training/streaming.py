"""Frozen weights that wait in main memory and come to the device one piece at a time.

A piece is what diffusers computes twice as one: a resnet or a transformer block. Its matrices are
copied to the device before it computes and forgotten after it; the copy of the next piece runs
beside the computation, on a stream of its own. In the backward pass a piece is computed anew, in
reverse order, so it is loaded again; what autograd keeps of that is then the only owner of the
copy, until the piece's gradients are done. Nothing but frozen matrices moves: no bit changes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from .errors import JobError
from .keys import unet_key_table
from .memory import MemoryPlan, main_memory_bytes

if TYPE_CHECKING:
    from .adapter import Adapter
    from .job import TrainingJob

FARAWAY = ("cuda", "xpu")  # devices with a memory of their own
PINNED_SHARE = 0.5  # of the free main memory: what is pinned can never be swapped out
_PIECE = re.compile(
    r"((?:down_blocks|up_blocks)\.\d+|mid_block)\.(?:resnets\.(\d+)|attentions\.(\d+))"
    r"(?:\.transformer_blocks\.(\d+))?\."
)
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")


# ---------------------------------------------------------------------------------- planning


@dataclass(frozen=True)
class Piece:
    """One resnet or transformer block of a UNet.

    Attributes:
        name: its module.
        unit: the `activations.Unit` that it belongs to, by name.
        size: bytes of its matrices on the device.
    """

    name: str
    unit: str
    size: int


def pieces_of(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    stored_bytes: Callable[[tuple[int, ...]], float],
) -> list[Piece]:
    """All pieces of a UNet that can be computed twice, in the order of the forward pass.

    Args:
        shapes: of its tensors, by sgm's or diffusers' names.
        stored_bytes: (shape of a tensor) -> bytes of each of its elements.
    """
    table, sizes, places = unet_key_table(config), {}, {}
    for key, shape in shapes.items():
        name = table.get(key, key)
        found = _PIECE.match(name)
        if not found or len(shape) < 2 or name.startswith("mid_block.resnets.0."):
            continue
        block, resnet, attention, inner = found.groups()
        if resnet is None and inner is None:
            continue  # around the transformer blocks, never computed twice
        piece = found[0][:-1]
        unit = block if resnet else f"{block}.attentions.{attention}"
        kind, _, number = block.partition(".")
        place = (_BLOCKS.index(kind), int(number or 0), int(resnet or attention), not resnet)
        places[piece] = (*place, int(inner or 0))
        size = round(torch.Size(shape).numel() * stored_bytes(shape))
        sizes[piece] = (unit, sizes.get(piece, (unit, 0))[1] + size)
    return [Piece(name, *sizes[name]) for name in sorted(places, key=places.__getitem__)]


def checkpointing(job: "TrainingJob") -> str:
    """What `memory.choose` shall compute twice: the job's own setting, if streaming has none.

    Raises:
        JobError: streaming is asked for, and computing twice forbidden.
    """
    wanted = job.memory.gradient_checkpointing
    if job.memory.stream_weights != "on":
        return wanted
    if wanted == "off":
        raise JobError(
            "Setting 'memory.stream_weights': what is streamed is computed twice; set "
            "memory.gradient_checkpointing to auto, or stream_weights to off."
        )
    return "on" if wanted == "auto" else wanted


def with_streaming(
    job: "TrainingJob", plan: MemoryPlan, pieces: Sequence[Piece], device: torch.device
) -> MemoryPlan:
    """The plan with what it streams: all it can if asked, else as little as makes it fit.

    Args:
        pieces: see `pieces_of`.
    """
    wanted = job.memory.stream_weights
    able = [p for p in pieces if p.unit in plan.twice]
    needless = wanted == "auto" and (plan.fits or device.type not in FARAWAY)
    if wanted == "off" or needless or not able:
        return plan
    passes = 2 * job.batch.accumulation
    for count in range(1, len(able) + 1) if wanted == "auto" else [len(able)]:
        # evenly spread: each copy has the time of what is computed between
        spread = [able[i * len(able) // count] for i in range(count)]
        streamed = _streamed(plan, spread, passes)
        if streamed.fits:
            break
    return streamed


def _streamed(plan: MemoryPlan, pieces: Sequence[Piece], passes: int) -> MemoryPlan:
    sizes = [p.size for p in pieces]
    at_once = max(a + b for a, b in pairwise([0, *sizes]))  # the one in use, and the next
    return replace(
        plan,
        weights=plan.weights - sum(sizes) + at_once,
        streamed=tuple(p.name for p in pieces),
        streamed_bytes=sum(sizes),
        moved=sum(sizes) * passes,
    )


# ----------------------------------------------------------------------------------- running


class Streamer:
    """Brings the frozen matrices of some pieces to the device while they compute.

    Making one moves the rest of the UNet to the device. The pieces should be computed twice where
    gradients are wanted: of what is computed once, autograd keeps the copies until its own end.

    Args:
        adapter: its UNet lies in main memory.
        names: pieces in the order of the forward pass.
    """

    def __init__(self, adapter: "Adapter", names: Sequence[str], device: torch.device):
        own = {id(t) for t in adapter.tensors()}
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: tuple[int, list[torch.Tensor]] | None = None
        modules = [adapter.unet.get_submodule(name) for name in names]
        self._pieces = [list(_frozen(module, own)) for module in modules]
        size = sum(slots[name].nbytes for piece in self._pieces for slots, name in piece)
        free = main_memory_bytes()
        pin = self._side is not None and (free is None or size < PINNED_SHARE * free)
        self._homes = [[_move_home(slots, name, pin) for slots, name in p] for p in self._pieces]
        adapter.unet.to(device)
        for index, module in enumerate(modules):
            module.__class__ = _streamed_class(type(module))
            module.streamer, module.streamed_index = self, index
        adapter.unet.streamer = self

    @contextmanager
    def present(self, index: int) -> Iterator[None]:
        """Inside, a piece has its matrices; meanwhile those of the next one are on their way."""
        piece = self._pieces[index]
        empty = [slots[name] for slots, name in piece]
        # other tensors in the slots, not other data in the same: autograd may keep what it saw
        for (slots, name), tensor in zip(piece, self._take(index), strict=True):
            _fill(slots, name, tensor)
        # the very test by which torch.utils.checkpoint knows a backward pass
        backwards = torch._C._current_graph_task_id() != -1
        following = index - 1 if backwards else index + 1
        try:
            if 0 <= following < len(self._pieces):
                self._ahead = following, self._send(following)
            yield
        finally:
            for (slots, name), tensor in zip(piece, empty, strict=True):
                slots[name] = tensor

    def forget(self) -> None:
        """Give back what is on its way to a piece that may never ask for it."""
        if self._ahead and self._side:
            # its memory may be given to others only when nothing is copied into it any more
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        self._ahead = None

    def _take(self, index: int) -> list[torch.Tensor]:
        if self._ahead is None or self._ahead[0] != index:
            self.forget()
            self._ahead = index, self._send(index)
        tensors = self._ahead[1]
        self.forget()
        return tensors

    def _send(self, index: int) -> list[torch.Tensor]:
        """Copies of a piece's matrices on the device, of which some may still be on their way.

        Their memory belongs to the stream that computes, which waits for the copies before it uses
        or frees it; and the copies wait for what that stream did with this memory before.
        """
        homes = self._homes[index]
        tensors = [torch.empty_like(home, device=self._device) for home in homes]
        if self._side is None:
            for tensor, home in zip(tensors, homes, strict=True):
                tensor.copy_(home)
            return tensors
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            for tensor, home in zip(tensors, homes, strict=True):
                tensor.copy_(home, non_blocking=True)
        return tensors


def _frozen(module: torch.nn.Module, own: set[int]) -> Iterator[tuple[dict, str]]:
    """(a module's parameters or buffers, name) of every matrix that is not the adapter's own."""
    for part in module.modules():
        for slots in (part._parameters, part._buffers):
            for name, tensor in slots.items():
                matrix = tensor is not None and tensor.squeeze().ndim >= 2  # no scales of 8 bit
                if matrix and not tensor.requires_grad and id(tensor) not in own:
                    yield slots, name


def _fill(slots: dict, name: str, tensor: torch.Tensor) -> None:
    if isinstance(slots[name], torch.nn.Parameter):
        tensor = torch.nn.Parameter(tensor, requires_grad=False)
    slots[name] = tensor


def _move_home(slots: dict, name: str, pin: bool) -> torch.Tensor:
    """Take a tensor out of its slot, if possible to where a device can read by itself."""
    home = slots[name].detach()
    _fill(slots, name, torch.empty(0, dtype=home.dtype))
    try:
        return home.pin_memory() if pin else home
    except RuntimeError:  # the system allows no more: copied the slow way
        return home


class _Streamed:
    """Mixed into a piece's class; outside of compiled code and of forward hooks."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.streamer.present(self.streamed_index):
            return super().__call__(*args, **kwargs)


@cache
def _streamed_class(kind: type) -> type:
    # the name stays: diffusers finds what to compile by the names of classes
    return type(kind.__name__, (_Streamed, kind), {"__module__": kind.__module__})
