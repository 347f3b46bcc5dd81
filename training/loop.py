"""The training loop: batches in, optimizer steps out, nothing else."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .adapter import Adapter
from .cache import Encoded
from .errors import TrainingError
from .fused_backward import StepInBackward
from .memory import apply_plan
from .noise import Draw
from .nonfinite import broken_layer, guilty_pictures, is_not_finite
from .objective import Batch, Objective
from .plan import Plan
from .rng import derive_seed, generator
from .update import Updater

SKIPS_IN_A_ROW = 25  # steps without a finite gradient before the run is given up


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        number: finished steps, from 1.
        loss: mean over its pictures; not finite if the step was skipped.
        grad_norm: length of the gradient before clipping.
        seconds: how long it took.
        skipped: whether the weights were left as they were.
        pictures: names of the files it saw; of a skipped step those with a loss that is not
            finite, if there are any.
        layer: of a skipped step the first layer whose gradient is not finite.
        partly: of a skipped step, whether weights with a finite gradient have moved all the same,
            see `fused_backward`.
    """

    number: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    skipped: bool
    pictures: tuple[str, ...]
    layer: str = ""
    partly: bool = False


class Loop:
    """One optimizer step at a time, each a pure function of weights, optimizer and its number."""

    def __init__(self, plan: Plan, adapter: Adapter, data: Encoded):
        self._plan = plan
        self._adapter = adapter
        self._data = data
        self._sampler = plan.sampler
        self._team = plan.team
        self._objective = Objective(
            plan.job.objective, plan.prediction, plan.zero_terminal_snr, plan.device
        )
        self.updater = Updater(adapter.groups(plan.job.optimizer.up_factor), plan.job)
        self._fused = StepInBackward(self.updater) if plan.memory.fused else None
        self._skips_in_a_row = 0

    def run(self, start: int, after_step: Callable[[Step], bool]) -> None:
        """Steps from `start` (finished so far) to the job's end.

        Args:
            after_step: called after every step; returns False to stop.

        Raises:
            TrainingError: no step has had a finite gradient for a long time.
        """
        self._adapter.train()
        apply_plan(self._adapter.unet, self._plan.memory)
        for number in range(start, self._plan.job.schedule.steps):
            step = self.step(number)
            self._skips_in_a_row = self._skips_in_a_row + 1 if step.skipped else 0
            if self._skips_in_a_row >= SKIPS_IN_A_ROW:
                raise TrainingError(
                    f"Training broke down: {SKIPS_IN_A_ROW} steps up to step {number + 1} gave "
                    "infinite or NaN gradients. Lower optimizer.learning_rate or train in fp32."
                )
            if not after_step(step):
                return

    def step(self, number: int) -> Step:
        """Optimizer step `number` (from 0)."""
        begin = time.perf_counter()
        job = self._plan.job
        mine = () if self._team.leads else (self._team.rank,)
        torch.manual_seed(derive_seed(job.seed, "dropout", number, *mine))
        if self._adapter.words:
            self._adapter.words.learn(number)
        total, seen = torch.zeros((), device=self._plan.device), []
        for part in range(job.batch.accumulation):
            position = number * job.batch.accumulation + part
            indices = self._sampler.batch(position)
            losses, loss = self._loss(indices, position)
            seen.append((indices, losses.detach()))
            loss = loss / job.batch.accumulation
            if self._fused and not self._fused.begin(number, loss):
                pass  # weights would move at once
            elif loss.requires_grad:  # not where there are more processes than pictures
                loss.backward()
            total += loss.detach()
        if self._adapter.words:
            self._adapter.words.complete_gradients()
        total = self._team.add_gradients(self.updater.parameters, total)
        norm = self._fused.end() if self._fused else self.updater.clip()
        measured = torch.stack([total, norm.to(total), self.updater.found_rate(total)])
        loss, grad_norm, found = measured.tolist()  # the step's only sync
        skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        pictures, layer = [i for indices, _ in seen for i in indices], ""
        if skipped:
            pictures = guilty_pictures(seen, self._team)
            layer = self._broken_layer()
        elif not self._fused:
            self.updater.step(number)
        names = [self._plan.placements[i].item.path.name for i in pictures]
        self.updater.zero_grad()
        rate = self.updater.rate(number) * found
        seconds = time.perf_counter() - begin
        partly = bool(skipped and self._fused and self._fused.moved)
        done = (number + 1, loss, grad_norm, rate, seconds, skipped)
        return Step(*done, tuple(names), layer, partly)

    def _broken_layer(self) -> str:
        models = self._adapter.models
        if self._fused:
            broken = self._fused.broken()
            return broken_layer(models, lambda p: id(p) in broken)
        return broken_layer(models, lambda p: is_not_finite(self.updater.gradient(p)))

    def _loss(self, indices: list[int], position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(losses of this process' pictures, their part of the batch's mean)."""
        batch = self._data.batch(indices, position)
        random = generator(self._plan.job.seed, "noise", position)
        draw = self._objective.draw(batch.latents, random)
        if self._team.size > 1:
            return self._share_of_loss(batch, draw, len(indices))
        losses = self._losses(batch, draw)
        return losses, losses.mean()

    def _share_of_loss(
        self, batch: Batch, draw: Draw, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, draw = self._team.share(batch, count), self._team.share(draw, count)
        if not len(batch.latents):
            nothing = torch.zeros(0, device=self._plan.device)
            return nothing, nothing.sum()
        losses = self._losses(batch, draw)
        return losses, losses.sum() / count

    def _losses(self, batch: Batch, draw: Draw) -> torch.Tensor:
        unet, dtype = self._adapter.unet, self._plan.dtype
        if batch.held is not None:
            self._adapter.enable(False)
            try:
                with torch.no_grad():
                    base = self._objective.predict(unet, batch.with_base_text(), draw, dtype)[0]
            finally:
                self._adapter.enable(True)
            batch = replace(batch, target=base)
        return self._objective.losses(unet, batch, draw, dtype)
