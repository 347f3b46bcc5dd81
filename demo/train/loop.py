"""Runs a stage for some minutes: batches, steps, averaging, checkpoints, reports.

Nothing random is kept between steps: the data of a step and the noise drawn in it come from
(seed, step). A run that was stopped and continued therefore ends with the same weights as one that
was not, on the same kind of machine.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from miniature import packs

from .muon import Muon
from .runs import Run, TrainingError

Batch = dict[str, Any]


class Stage(Protocol):
    """What a stage must offer.

    Attributes:
        name: folder of its files.
        trained: the modules that learn; names become prefixes in the weights file.
    """

    name: str
    trained: nn.ModuleDict

    def batch(self, step: int) -> Batch:
        """The data of a step, on the CPU; runs in worker processes where there are some."""

    def loss(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to descend and numbers to report."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage learns, over its whole life and not one slice."""

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    average: float = 0.999  # decay of the weight average; 0 = none
    clip: float = 1.0
    final: float = 0.3  # share of the steps in which the rate falls to a tenth
    muon: bool = False  # matrices and kernels by Muon, which needs fewer steps than AdamW

    def rate(self, step: int) -> float:
        """Warm up, stay, fall along a half cosine (a trapezoid that can be stopped anywhere)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        start = self.steps * (1 - self.final)
        if step < start:
            return self.learning_rate
        done = min(1.0, (step - start) / max(1.0, self.steps - start))
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def arguments(description: str) -> argparse.ArgumentParser:
    """The options all stages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for this slice")
    parser.add_argument("--steps", type=int, default=0, help="stop here; 0 = as planned")
    parser.add_argument("--batch", type=int, default=0, help="pictures a step; 0 = the stage's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = torch decides")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--report", type=float, default=30.0, help="seconds between reports")
    parser.add_argument("--save", type=float, default=300.0, help="seconds between checkpoints")
    parser.add_argument("--shipped", action="store_true", help="start from the shipped weights")
    parser.add_argument("--processes", type=int, default=1, help="each with batches of its own")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"),
        help="of the forward pass; auto: bfloat16 where the processor multiplies matrices in it",
    )  # fmt: skip
    return parser


def run_stage(build: Callable[[argparse.Namespace, torch.device], Stage], plan: Plan, args) -> None:
    """Train until the time is over or the plan is done, in as many processes as asked for."""
    if args.processes == 1:
        _work(0, build, plan, args, "")
        return
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        mp.start_processes(
            _work, (build, plan, args, meeting), nprocs=args.processes, start_method="spawn"
        )


def _work(rank: int, build, plan: Plan, args, meeting: str) -> None:
    """One process of a stage."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if meeting:
        dist.init_process_group("gloo", meeting, rank=rank, world_size=args.processes)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    stage = build(args, device)
    stage.trained.to(device).train()
    trainer = _Trainer(stage, plan, args, device, rank)
    trainer.resume()
    trainer.run(min(args.steps or plan.steps, plan.steps))
    if meeting:
        dist.destroy_process_group()


@contextmanager
def quick(device: torch.device, precision: str = "auto") -> Iterator[None]:
    """A forward pass as this device does it best.

    bfloat16 where the processor multiplies matrices in it; on CPUs attention in plain steps, since
    the backward pass of the fused kernel takes longer for sequences as short as ours.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cuda = device.type == "cuda"
    able = cuda or torch.cpu._is_amx_tile_supported()
    wanted = able if precision == "auto" else precision == "bfloat16"
    plain = nullcontext() if cuda else sdpa_kernel(SDPBackend.MATH)
    with plain, torch.autocast(device.type, torch.bfloat16, enabled=wanted):
        yield


class _Trainer:
    def __init__(self, stage: Stage, plan: Plan, args, device: torch.device, rank: int = 0):
        self.stage, self.plan, self.args, self.device = stage, plan, args, device
        self.rank = rank
        self.parent = os.getppid()
        self.run_files = Run(stage.name)
        self.step = 0
        self.seen = 0
        self.parameters = [p for p in stage.trained.parameters() if p.requires_grad]
        self.optimizer = _Optimizer(self.parameters, plan)
        self.average = None
        if plan.average:
            from diffusers.training_utils import EMAModel

            self.average = EMAModel(
                stage.trained.parameters(), decay=plan.average, use_ema_warmup=True, power=0.75,
                foreach=True,
            )  # fmt: skip

    def resume(self) -> None:
        state = self.run_files.load_state(self.device)
        if state is None:
            if self.args.shipped:
                self._start_from_shipped()
            return
        self.stage.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seen = state["step"], state["seen"]
        print(f"{self.stage.name}: going on at step {self.step}", flush=True)

    def _start_from_shipped(self) -> None:
        """Go on where the shipped weights stopped, with a fresh optimizer."""
        found = {name: packs.read_module(self.stage.name, name) for name in self.stage.trained}
        if any(state is None for state in found.values()):
            raise TrainingError(f"Nothing is shipped for {self.stage.name!r}: leave out --shipped.")
        for name, state in found.items():
            self.stage.trained[name].load_state_dict(state)
        if self.average is not None:
            everything = self.stage.trained.parameters()
            self.average.shadow_params = [p.detach().clone() for p in everything]
        notes = packs.notes(self.stage.name)
        self.step, self.seen = int(notes["step"]), int(notes["seen"])
        print(f"{self.stage.name}: going on from what is shipped, step {self.step}", flush=True)

    def run(self, last: int) -> None:
        started = reported = saved = time.monotonic()
        sums: dict[str, torch.Tensor] = {}
        count = pictures = 0
        for batch in self._batches(last):
            numbers = self._train_step(batch)
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0) + value
            count += 1
            pictures += _pictures(batch) * self.args.processes
            now = time.monotonic()
            over = now - started > 60 * self.args.minutes or os.getppid() != self.parent
            done = self.step >= last or self._agreed(over)
            if done or now - reported > self.args.report:
                means = {name: float(value) / count for name, value in sums.items()}
                if self.rank == 0:
                    self._report(means, pictures, now - reported)
                sums, count, pictures, reported = {}, 0, 0, now
            if done or now - saved > self.args.save:
                if self.rank == 0:
                    self._save()
                saved = now
            if done:
                break

    def _batches(self, last: int):
        # Every process makes batches of its own: process r of n those numbered r, r + n, ...
        many = self.args.processes
        steps = range(self.step * many + self.rank, last * many, many)
        if not self.args.workers:
            return (self.stage.batch(step) for step in steps)
        from torch.utils.data import DataLoader

        return DataLoader(
            _ByStep(self.stage.batch), batch_size=None, sampler=steps, prefetch_factor=4,
            num_workers=self.args.workers, pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def _train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        number = self.step * self.args.processes + self.rank
        generator = torch.Generator(self.device).manual_seed(self.args.seed * 1_000_003 + number)
        torch.manual_seed(self.args.seed * 1_000_003 + number)
        on_device = {
            name: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }
        with quick(self.device, self.args.precision):
            loss, numbers = self.stage.loss(on_device, generator)
        loss.backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step(self.plan.rate(self.step))
        if self.average is not None:
            self.average.step(self.stage.trained.parameters())
        self.step += 1
        self.seen += _pictures(batch) * self.args.processes
        return {"loss": loss.detach(), **{k: torch.as_tensor(v) for k, v in numbers.items()}}

    def _agreed(self, stop: bool) -> bool:
        """What the first process says: all must stop at the same step."""
        if self.args.processes == 1:
            return stop
        answer = torch.tensor([float(stop)])
        dist.broadcast(answer, 0)
        return bool(answer)

    def _share_gradients(self) -> None:
        """Put the mean over all processes in the place of every gradient."""
        if self.args.processes == 1:
            return
        with_gradient = [p for p in self.parameters if p.grad is not None]
        flat = torch.cat([p.grad.reshape(-1) for p in with_gradient])
        dist.all_reduce(flat)
        flat /= self.args.processes
        for p, part in zip(
            with_gradient, flat.split([p.numel() for p in with_gradient]), strict=True
        ):
            p.grad.copy_(part.view_as(p))

    def _report(self, numbers: dict[str, float], pictures: int, seconds: float) -> None:
        speed = pictures / max(seconds, 1e-9)
        self.run_files.log(
            step=self.step, seen=self.seen, pictures_per_s=round(speed, 2),
            rate=self.plan.rate(self.step), device=str(self.device),
            **{name: round(value, 5) for name, value in numbers.items()},
        )  # fmt: skip
        text = " ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        print(f"{self.stage.name} step {self.step} {speed:.1f} pictures/s {text}", flush=True)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seen": self.seen,
            "trained": self.stage.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        self.run_files.save_state(state)
        if self.average is not None:
            self.average.store(self.stage.trained.parameters())
            self.average.copy_to(self.stage.trained.parameters())
        notes = {"step": str(self.step), "seen": str(self.seen)}
        self.run_files.save_weights(self.stage.trained.state_dict(), notes)
        if self.average is not None:
            self.average.restore(self.stage.trained.parameters())


class _Optimizer:
    """AdamW, and Muon for what is a matrix where the plan wants it."""

    def __init__(self, parameters: list[nn.Parameter], plan: Plan):
        wide = [p for p in parameters if plan.muon and p.ndim >= 2 and min(p.shape[:2]) >= 8]
        chosen = {id(p) for p in wide}
        plain = [p for p in parameters if id(p) not in chosen]
        self._adamw = torch.optim.AdamW(
            plain, plan.learning_rate, plan.betas, weight_decay=plan.weight_decay, fused=True
        )
        self._muon = Muon(wide, plan.weight_decay)

    def step(self, rate: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._muon.step(rate)

    def state_dict(self) -> dict:
        return {"adamw": self._adamw.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self._adamw.load_state_dict(state["adamw"])
        self._muon.load_state_dict(state["muon"])


class _ByStep:
    """A data set whose item `step` is the whole batch of that step."""

    def __init__(self, make: Callable[[int], Batch]):
        self._make = make

    def __getitem__(self, step: int) -> Batch:
        return self._make(step)


def _pictures(batch: Batch) -> int:
    return next(len(value) for value in batch.values() if torch.is_tensor(value))
