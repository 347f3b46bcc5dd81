"""Use up each gradient as soon as it is there: all gradients never stand together in memory.

A hook on each weight moves it within the backward pass, when everything that needs its old value
is done, and forgets its gradient. The weights become the same, to the bit, as by an ordinary step;
what looks at all gradients before the first weight moves cannot be had: clipping their common
length, several passes per step, several processes.

A step whose loss is not finite moves nothing, as ever. If the loss is finite and a gradient is
not, some weights have moved already when that is found: then each weight whose own gradient is
broken takes its step with a gradient of zero instead, and the step counts as a broken one.
"""

import math
from typing import TYPE_CHECKING

import torch

from .update import Updater

if TYPE_CHECKING:
    from .job import TrainingJob

OPTIMIZERS = ("adamw", "lion", "adafactor", "schedule_free")  # those that look at one weight only


def refusal(job: "TrainingJob", processes: int = 1) -> str:
    """What a job has to change before gradients can be used one by one, "" if nothing."""
    needs = (
        (job.batch.accumulation > 1, "batch.accumulation 1"),
        (job.optimizer.max_grad_norm > 0, "optimizer.max_grad_norm 0 (max_grad_value may stay)"),
        (job.optimizer.kind not in OPTIMIZERS, f"optimizer.kind {', '.join(OPTIMIZERS)}"),
        (job.optimizer.weights != "fp32", "optimizer.weights fp32"),
        (job.embedding.vectors > 0, "embedding.vectors 0"),
        (max(job.memory.processes, processes) > 1, "memory.processes 1"),
    )
    return ", ".join(text for needed, text in needs if needed)


class StepInBackward:
    """Moves the weights of an updater within the backward pass.

    Between `begin` and `end` there is one backward pass; outside, gradients stay where they are.
    """

    def __init__(self, updater: Updater):
        self._updater = updater
        self._optimizer = updater.optimizer
        self._groups = {
            id(p): group for group in self._optimizer.param_groups for p in group["params"]
        }
        self._changed: dict[int, tuple[dict, dict]] = {}
        self._lengths: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._open = False
        for p in updater.parameters:
            p.register_post_accumulate_grad_hook(self._use)

    def begin(self, number: int, loss: torch.Tensor) -> bool:
        """Whether the backward pass of step `number` (from 0) may come; not of a broken loss."""
        self._lengths.clear()
        self._open = math.isfinite(loss.item())
        if self._open:
            self._updater.set_rate(number)
        return self._open

    def end(self) -> torch.Tensor:
        """After the backward pass; returns the length of all gradients, NaN where there were none.

        The weights have moved if `begin` said so.
        """
        for group, values in self._changed.values():
            group.update(values)
        self._changed.clear()
        if self._open:
            self._updater.finish()
        self._open = False
        if not self._lengths:
            return torch.tensor(math.nan)
        return torch.linalg.vector_norm(torch.stack([length for _, length in self._lengths]))

    @property
    def moved(self) -> bool:
        """Whether the last step moved weights."""
        return bool(self._lengths)

    def broken(self) -> set[int]:
        """Ids of the weights whose gradient of the last step was not finite."""
        return {id(p) for p, length in self._lengths if not math.isfinite(length.item())}

    @torch.no_grad()
    def _use(self, weight: torch.nn.Parameter) -> None:
        if not self._open:
            return
        length = torch.linalg.vector_norm(weight.grad)
        self._lengths.append((weight, length))
        weight.grad.masked_fill_(~torch.isfinite(length), 0.0)  # without asking the device
        self._updater.cut(weight)
        group = self._groups[id(weight)]
        alone = {**group, "params": [weight]}
        groups, self._optimizer.param_groups = self._optimizer.param_groups, [alone]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = groups
        weight.grad = None
        # what an optimizer counts per group: the same for every weight of it, kept once
        values = {k: v for k, v in alone.items() if k != "params"}
        self._changed[id(group)] = group, values
