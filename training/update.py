"""How a step's gradients become new weights: clip, rate, optimizer, rounding, running mean."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .embedding import draw_to_norm
from .errors import StateError
from .optimize import OPTIMIZERS, base_rate, make_optimizer
from .optimizer_state import UpdateState, load_groups, load_memory, save_groups, save_memory
from .rng import derive_seed
from .schedules import rate_factor

if TYPE_CHECKING:
    from .job import TrainingJob

WEIGHT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Updater:
    """Moves the weights of an adapter.

    Args:
        groups: `Adapter.groups()`: "params", the "factor" of their learning rate, and the "norms"
            that their rows are drawn to.

    Raises:
        JobError: see `make_optimizer`.
    """

    def __init__(self, groups: Sequence[dict], job: "TrainingJob"):
        self._settings, self._schedule, self._seed = job.optimizer, job.schedule, job.seed
        self._curve = OPTIMIZERS[job.optimizer.kind].schedule
        self.parameters = [p for group in groups for p in group["params"]]
        self._full: _Full | None = None
        if job.optimizer.weights != "fp32":
            for p in self.parameters:
                p.data = p.data.to(WEIGHT_TYPES[job.optimizer.weights])
            self._full = _Full(self.parameters)
            groups = [{**g, "params": self._full.of(g["params"])} for g in groups]
        plain = [{k: v for k, v in g.items() if k != "norms"} for g in groups]
        self.optimizer = make_optimizer(plain, job.optimizer)
        self._pull = job.embedding.keep_norm
        self._norms = [
            x for g in groups for x in zip(g.get("norms", ()), g["params"], strict=False)
        ]
        if OPTIMIZERS[job.optimizer.kind].averages:  # its two sets of weights must fit together
            self._norms = []
        self._train_mode = getattr(self.optimizer, "train", None)
        self._eval_mode = getattr(self.optimizer, "eval", None)
        if self._train_mode:
            self._train_mode()
        self._mean: list[torch.Tensor] = []
        if job.optimizer.ema_decay:
            self._mean = [p.detach().float().clone() for p in self.parameters]
        self._updates = 0

    def rate(self, number: int) -> float:
        """Learning rate of step `number` (from 0) before the groups' factors."""
        return base_rate(self._settings) * rate_factor(number, self._schedule, self._curve)

    def found_rate(self, like: torch.Tensor) -> torch.Tensor:
        """What an optimizer that finds its own rate has found so far, 1 for the others."""
        found = self.optimizer.param_groups[0].get("d", 1.0)
        if isinstance(found, torch.Tensor):
            return found.to(like)
        return torch.full_like(like, found)

    def clip(self) -> torch.Tensor:
        """Shorten the gradients as the settings say; returns their length before that."""
        weights = self.parameters
        if self._full:
            weights = self._full.take_gradients()
        limit = self._settings.max_grad_norm or math.inf
        if not self._settings.max_grad_value:
            return torch.nn.utils.clip_grad_norm_(weights, limit)
        norm = torch.nn.utils.clip_grad_norm_(weights, math.inf)
        torch.nn.utils.clip_grad_value_(weights, self._settings.max_grad_value)
        torch.nn.utils.clip_grad_norm_(weights, limit)
        return norm

    def cut(self, weight: torch.Tensor) -> None:
        """Cut the values of one weight's gradient as the settings say."""
        if self._settings.max_grad_value:
            torch.nn.utils.clip_grad_value_([weight], self._settings.max_grad_value)

    def gradient(self, weight: torch.Tensor) -> torch.Tensor | None:
        """The gradient of one weight, wherever it lies."""
        return self._full.gradient(weight) if self._full else weight.grad

    def set_rate(self, number: int) -> None:
        """Give the optimizer the learning rates of step `number` (from 0)."""
        rate = self.rate(number)
        for group in self.optimizer.param_groups:
            value = rate * group.get("factor", 1.0)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def step(self, number: int) -> None:
        """Move the weights by the present gradients; `number` is the step, from 0."""
        self.set_rate(number)
        if self._full:
            self._full.take_weights()
        self.optimizer.step()
        for norm, rows in self._norms:
            if rows.grad is not None:
                draw_to_norm(rows, norm, self._pull)
        if self._full:
            self._full.give_weights(derive_seed(self._seed, "rounding", number))
        self.finish()

    def finish(self) -> None:
        """What follows when all weights have moved: the running mean."""
        self._follow()
        self._updates += 1

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def _follow(self) -> None:
        if not self._mean:
            return
        # diffusers' EMAModel: follow closely at first, so that the start is soon forgotten
        n = self._updates
        decay = min(self._settings.ema_decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(self._mean, [p.detach().float() for p in self.parameters], 1.0 - decay)

    # ------------------------------------------------------------------------- averaged weights

    @property
    def averages(self) -> bool:
        """Whether the weights to use are others than those that are trained."""
        return bool(self._mean or self._eval_mode)

    def retire(self) -> None:
        """There will be no further step: the weights there are now are those to use."""
        self._mean, self._eval_mode = [], None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the adapter holds the weights to use; afterwards every bit is as before."""
        if not self.averages:
            yield
            return
        with torch.no_grad():
            trained = [p.detach().clone() for p in self.parameters]
            if self._mean:
                for p, mean in zip(self.parameters, self._mean, strict=True):
                    p.copy_(mean)
            else:
                self._switch(self._eval_mode)
        try:
            yield
        finally:
            with torch.no_grad():
                if not self._mean:
                    self._switch(self._train_mode)
                for p, value in zip(self.parameters, trained, strict=True):
                    p.copy_(value)  # switching there and back rounds

    def _switch(self, mode) -> None:
        if self._full:
            self._full.take_weights()
        mode()
        if self._full:
            self._full.give_weights(None)

    # ------------------------------------------------------------------------------------ state

    def slots(self) -> Iterator[tuple[Any, Any, torch.Tensor]]:
        """(container, key, tensor) of everything kept beside the weights, to move it elsewhere."""
        for memory in (*self.optimizer.state.values(), *self.optimizer.param_groups):
            yield from ((memory, k, v) for k, v in memory.items() if isinstance(v, torch.Tensor))
        yield from ((self._mean, i, mean) for i, mean in enumerate(self._mean))

    def state(self) -> UpdateState:
        """Everything to go on with; tensors are not copied.

        Raises:
            StateError: the optimizer keeps something that cannot be saved.
        """
        own = [p for group in self.optimizer.param_groups for p in group["params"]]
        return UpdateState(
            optimizer=_name(self.optimizer),
            memory={i: save_memory(self.optimizer.state[p]) for i, p in enumerate(own)},
            groups=save_groups(self.optimizer),
            mean=list(self._mean),
            updates=self._updates,
        )

    @torch.no_grad()
    def load(self, state: UpdateState) -> None:
        """Go on from `state()` of an equal updater; the weights are loaded by the adapter.

        Raises:
            StateError: it was left by another optimizer.
        """
        if state.optimizer != _name(self.optimizer):
            raise StateError(
                f"The saved state belongs to the optimizer {state.optimizer}, this is "
                f"{_name(self.optimizer)}: install the same package, or remove the run's folder."
            )
        own = [p for group in self.optimizer.param_groups for p in group["params"]]
        for i, p in enumerate(own):
            group = next(g for g in self.optimizer.param_groups if any(p is q for q in g["params"]))
            memory = load_memory(state.memory.get(i, {}), self.parameters[i].device, group)
            if memory:
                self.optimizer.state[p] = memory
        load_groups(self.optimizer, state.groups)
        for mean, saved in zip(self._mean, state.mean, strict=True):
            mean.copy_(saved)
        self._updates = state.updates


def _name(optimizer: torch.optim.Optimizer) -> str:
    kind = type(optimizer)
    return f"{kind.__module__.rpartition('training.')[2]}.{kind.__qualname__}"


class _Full:
    """float32 twins of bfloat16 weights that exist only while a step is taken.

    bfloat16 keeps 8 bits of a number: a step of a thousandth of a weight would always be rounded
    away. Rounded by chance it is kept on average (arXiv 2010.06192, section 3).
    """

    def __init__(self, weights: list[torch.nn.Parameter]):
        self._weights = weights
        self._sizes = [p.numel() for p in weights]
        self._twins = [
            torch.nn.Parameter(torch.zeros_like(p, dtype=torch.float32)) for p in weights
        ]
        self._of = {id(p): twin for p, twin in zip(weights, self._twins, strict=True)}
        self._values: torch.Tensor | None = None  # of all twins in one piece

    def of(self, weights: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        return [self._of[id(p)] for p in weights]

    def gradient(self, weight: torch.nn.Parameter) -> torch.Tensor | None:
        """Of one weight, before and after `take_gradients`."""
        return self._of[id(weight)].grad if weight.grad is None else weight.grad

    def _in_one_piece(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """New float32 memory for all weights, and the part of each: few calls for many weights."""
        flat = torch.empty(sum(self._sizes), device=self._weights[0].device)
        parts = flat.split(self._sizes)
        return flat, [part.view_as(p) for part, p in zip(parts, self._weights, strict=True)]

    @torch.no_grad()
    def take_gradients(self) -> list[torch.nn.Parameter]:
        self.take_weights()
        _, parts = self._in_one_piece()
        having = [i for i, p in enumerate(self._weights) if p.grad is not None]
        torch._foreach_copy_([parts[i] for i in having], [self._weights[i].grad for i in having])
        for i in having:
            self._twins[i].grad, self._weights[i].grad = parts[i], None
        return self._twins

    @torch.no_grad()
    def take_weights(self) -> None:
        if self._values is None:
            self._values, parts = self._in_one_piece()
            for twin, part in zip(self._twins, parts, strict=True):
                twin.data = part
        torch._foreach_copy_([twin.data for twin in self._twins], [p.data for p in self._weights])

    @torch.no_grad()
    def give_weights(self, seed: int | None) -> None:
        """Round the twins into the weights, by chance with a seed, else to the nearest."""
        values, self._values = self._values, None
        if seed is not None:
            # on the device: drawing millions of numbers on the CPU would take longer than the step
            values = stochastic_round(values, torch.Generator(values.device).manual_seed(seed))
        parts = [
            v.view_as(p) for v, p in zip(values.split(self._sizes), self._weights, strict=True)
        ]
        torch._foreach_copy_([p.data for p in self._weights], parts)
        for twin in self._twins:
            twin.data = torch.empty(0, device=values.device)


def stochastic_round(values: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """float32 as bfloat16, up or down by chance so that the mean is exact.

    bfloat16 is the upper half of a float32: a random lower half is added, then cut off.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(
        0, 1 << 16, bits.shape, generator=random, dtype=torch.int32, device=bits.device
    )
    rounded = ((bits + noise) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).to(torch.bfloat16)
