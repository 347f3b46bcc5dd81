"""One run from job to file: plan, encode, train, sample, export; stop and resume at any point."""

import gc
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from . import pausing
from .adapter import Adapter
from .board import Board
from .buckets import losses
from .cache import Encoded, encode
from .compiled import check_compiler
from .delivery import check_place, clear_up, deliver
from .diffusers_file import DIFFUSERS_FILE, write_diffusers
from .embedding_file import bundled, bundled_name, write_embeddings
from .errors import TrainingError
from .events import Events
from .export import lora_tensors, write_lora
from .follower import assemble, be_repeatable, follow
from .job import TrainingJob
from .judge import Judge, final_weights
from .loop import Loop, Step
from .memory import SMALLEST_GB, advice, fitting, spill_warning
from .metadata import file_metadata
from .nonfinite import describe
from .plan import Plan, make_plan
from .plot import plot_losses, running_mean
from .preview import make_samples, needed_texts, planned
from .processes import Team
from .room import room_warning
from .state import RunLock, State, States, capture
from .tensorfile import write_changed
from .wandb_log import WandbLog
from .wholefile import in_words

log = logging.getLogger(__name__)

LORA_FILE = "lora.safetensors"


class Stopped(Exception):
    """Somebody asked for a stop while pictures were encoded or sampled."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `lora` is the finished file, None if it was stopped before the end."""

    step: int
    lora: Path | None = None


def run_job(
    job: TrainingJob, events: Events, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train a job to its end, or until `should_stop`; continue an earlier run of the same job.

    A finished run is not trained again: its file is written anew from its last state.

    Raises:
        TrainingError: something a user can repair, before or while training.
        torch.OutOfMemoryError: see `out_of_memory_advice`.
    """
    plan = make_plan(job)
    if job.memory.compile != "off":
        check_compiler(plan.device)
    with plan.team.joined(plan.device):
        if plan.team.leads:
            return _lead(plan, events, should_stop)
        return Outcome(follow(plan))


def _lead(plan: Plan, events: Events, should_stop: Callable[[], bool]) -> Outcome:
    with RunLock(plan.run_dir):
        clear_up(plan.run_dir)
        saving, boards = plan.job.saving, []
        if saving.tensorboard:
            boards.append(Board(plan.run_dir))
        if saving.wandb != "disabled":
            boards.append(WandbLog(plan))
        for board in boards:
            events.listen(board)
        events.keep_in(plan.run_dir / "events.jsonl")
        try:
            return _Run(plan, events, should_stop).go()
        finally:
            events.close()
            for board in boards:
                board.close()


class _Run:
    def __init__(self, plan: Plan, events: Events, should_stop: Callable[[], bool]):
        self.plan = plan
        self.job = plan.job
        self.events = events
        self.should_stop = should_stop
        self.states = States(plan.run_dir, plan.digest, plan.job.saving.keep)
        self.judge = Judge(plan, events)
        self.state = State(started=time.time())
        self.saved_step = -1
        self.saved_at = time.monotonic()

    def go(self) -> Outcome:
        steps = self.job.schedule.steps
        self._describe()
        found = self.states.newest(self.events.warn)
        if found:
            self.state, self.saved_step = found, found.step
        self.judge.recall(self.state)
        self.events.emit("plan", **self.plan.summary(), resumed_from=self.state.step)
        for line in losses(self.plan.placements):
            self.events.warn(f"{line}.")
        if warning := spill_warning(self.plan.memory, self.job):
            self.events.warn(warning)
        reused = self.state.step >= steps
        warning = be_repeatable(self.plan.device, self.state)
        if warning and not reused:
            self.events.warn(warning)
        if not reused:
            check_place(self.job.saving.output)
        self.plan.team.agree(not reused)
        if not reused or not self._samples_exist():
            try:
                self._train()
            except Stopped:
                pass
        if self.state.step < steps:
            return self._stopped()
        return self._finish(reused)

    def _describe(self) -> None:
        import yaml

        text = yaml.safe_dump(self.job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._note("job.yaml", text.encode())
        for issue in self.plan.dataset.issues:
            if issue.severity in ("error", "warning"):
                self.events.warn(f"{issue.path}: {issue.message}")

    # ------------------------------------------------------------------------------- training

    def _train(self) -> None:
        data = self._encode()
        adapter, loop = assemble(self.plan, data, self.state)
        self.events.emit("phase", name="model", done=1, total=1)
        weights = sum(p.numel() for p in adapter.parameters())
        if warning := room_warning(self.plan.run_dir, weights, self.job.saving.keep):
            self.events.warn(warning)
        self.events.emit(
            "phase",
            name="train",
            done=self.state.step,
            total=self.job.schedule.steps,
            layers=len(adapter.names),
            parameters=weights,
        )
        self.saved_at = time.monotonic()
        team = self.plan.team
        report = self._progress if team.size == 1 else self._report_phase  # others wait already
        self.judge.measure(self.state, adapter, loop.updater, data, report)
        loop.run(self.state.step, lambda s: team.agree(self._after(s, adapter, loop, data)))
        if self.state.step >= self.job.schedule.steps and self.job.samples.at_end:
            step, weights = self._final()
            # the state holds the adapter's own tensors, which now become others
            self.state.adapter = {k: v.clone() for k, v in self.state.adapter.items()}
            adapter.load_state(weights)
            self._sample(adapter, data, step)

    def _encode(self) -> Encoded:
        """Fill the caches; the other processes wait for what has become of it."""
        team = self.plan.team if self.state.step < self.job.schedule.steps else Team()
        try:
            data = encode(self.plan, needed_texts(self.plan), self._progress)
            self._progress("model", 0, 1)
        except Stopped:
            team.agree(False)
            raise
        team.agree(True)
        for warning in data.warnings:
            self.events.warn(warning)
        return data

    def _after(self, step: Step, adapter: Adapter, loop: Loop, data: Encoded) -> bool:
        state = self.state
        state.step = step.number
        state.losses.append(math.nan if step.skipped else step.loss)
        state.skipped += step.skipped
        state.seconds += step.seconds
        self._report(step)
        stop, last = self.should_stop(), step.number == self.job.schedule.steps
        every = self.job.samples.every_steps
        try:
            if last or not stop:  # what a stop leaves out is measured when the run goes on
                report = self._report_phase if last else self._progress
                self.judge.measure(state, adapter, loop.updater, data, report)
            if stop or last or self._is_due(step.number):
                self._save(capture(state, adapter, loop.updater), must=stop or last)
            if every and not stop and not last and step.number % every == 0:
                with loop.updater.averaged():
                    self._sample(adapter, data, step.number)
            if not stop and not last and pausing.is_asked(self.plan.run_dir):
                self._pause(adapter, loop, data)
                stop = self.should_stop()
        except Stopped:
            self._save(capture(state, adapter, loop.updater), must=True)
            return False
        return not stop

    def _pause(self, adapter: Adapter, loop: Loop, data: Encoded) -> None:
        if self.saved_step != self.state.step:
            self._save(capture(self.state, adapter, loop.updater), must=True)
        self.events.emit("paused", step=self.state.step, steps=self.job.schedule.steps)
        with pausing.Parked(adapter, loop.updater, data):
            pausing.wait(self.plan.run_dir, self.should_stop)
        self.events.emit("resumed", step=self.state.step)

    def _report(self, step: Step) -> None:
        if step.skipped:
            self.events.warn(describe(step.number, step.pictures, step.layer, step.partly))
        self.events.emit(
            "step",
            step=step.number,
            steps=self.job.schedule.steps,
            loss=step.loss,
            average=running_mean(self.state.losses[-200:])[-1],
            learning_rate=step.learning_rate,
            grad_norm=step.grad_norm,
            seconds=round(step.seconds, 4),
            memory_mb=_peak_memory_mb(self.plan.device),
        )

    def _is_due(self, step: int) -> bool:
        saving = self.job.saving
        minutes = (time.monotonic() - self.saved_at) / 60
        by_steps = saving.every_steps and step % saving.every_steps == 0
        return bool(by_steps or (saving.every_minutes and minutes >= saving.every_minutes))

    def _save(self, state: State, must: bool) -> None:
        try:
            path = self.states.save(state)
        except OSError as error:
            if must:
                raise TrainingError(
                    f"The state of step {state.step} cannot be saved ({in_words(error)}): make "
                    "room on the disk and start again, the last saved state is kept."
                ) from None
            self.events.warn(f"The state of step {state.step} cannot be saved: {in_words(error)}.")
            return
        self.saved_step, self.saved_at = state.step, time.monotonic()
        self.events.emit("checkpoint", step=state.step, path=path)

    def _sample(self, adapter: Adapter, data: Encoded, step: int) -> None:
        def progress(done: int, total: int) -> None:
            self._progress("sample", done, total)

        try:
            samples = make_samples(self.plan, adapter, data, step, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            gc.collect()
            self.events.warn("Too little memory for sample pictures; training goes on without.")
            return
        for sample in samples:
            self.events.emit(
                "sample",
                step=sample.step,
                prompt=sample.prompt,
                path=sample.path,
                base=sample.base,
            )

    def _report_phase(self, phase: str, done: int, total: int) -> None:
        self.events.emit("phase", name=phase, done=done, total=total)

    def _progress(self, phase: str, done: int, total: int) -> None:
        self._report_phase(phase, done, total)
        if self.should_stop():
            raise Stopped

    def _samples_exist(self) -> bool:
        if not self.job.samples.at_end:
            return True
        return all(s.path.exists() for s in planned(self.plan, self._final()[0]))

    def _final(self) -> tuple[int, dict[str, torch.Tensor]]:
        """(step, weights) of what a finished run gives to the world."""
        return final_weights(self.state, self.judge, self.job.validation.use_best)

    # ------------------------------------------------------------------------------ the end

    def _stopped(self) -> Outcome:
        saved = self.state.step == max(self.saved_step, 0)
        steps = self.job.schedule.steps
        self.events.emit("stopped", step=self.state.step, steps=steps, saved=saved)
        return Outcome(self.state.step)

    def _finish(self, reused: bool) -> Outcome:
        plan, job, state = self.plan, self.job, self.state
        self.events.emit("phase", name="export", done=0, total=1)
        step, weights = self._final()
        if job.validation.use_best and not self.judge.best():
            self.events.warn("No validation loss was measured, so the last weights are written.")
        tensors = lora_tensors(weights, job, plan.checkpoint) | bundled(weights, plan)
        metadata = file_metadata(
            plan,
            started=state.started,
            # not the clock: the file of one run is the same file whenever it is written
            finished=state.started + state.seconds,
            skipped_steps=state.skipped,
            step=step,
            validation_loss=dict(state.scores).get(step),
            sample=self._newest_sample() if job.saving.thumbnail else None,
        )
        words = write_embeddings(plan.run_dir, weights, plan, metadata) if plan.words else []
        lora = plan.run_dir / LORA_FILE
        write_lora(lora, tensors, metadata, plan.checkpoint)
        lora, extra = deliver(lora, job.saving.output), {}
        if words:
            stem = job.embedding.name or f"{Path(job.saving.output).stem}_embedding"
            extra["embeddings"] = [
                {
                    "word": word,
                    "suffix": suffix,
                    "file": deliver(file, job.saving.output, f"{stem}{suffix}"),
                    "inside": bundled_name(plan, suffix),
                }
                for word, suffix, file in words
            ]
        if job.saving.diffusers:
            extra["diffusers"] = plan.run_dir / DIFFUSERS_FILE
            write_diffusers(extra["diffusers"], weights, plan, metadata)
        values = [x if math.isfinite(x) else None for x in state.losses]
        curve = json.dumps({"loss": values, "validation": state.scores}).encode()
        samples = [s for s in planned(plan, step) if s.path.exists()]
        self.states.finish(state)
        self.events.emit(
            "done",
            lora=lora,
            **extra,
            steps=state.step,
            loss=running_mean(state.losses)[-1],
            losses=self._note("losses.json", curve),
            plot=self._plot(),
            samples=[[s.path, s.base] for s in samples],
            validation=state.scores,
            used_step=step,
            seconds=round(state.seconds, 3),
            reused=reused,
            skipped_steps=state.skipped,
        )
        return Outcome(state.step, lora)

    def _note(self, name: str, data: bytes) -> Path:
        """Write a file about the run, which is never worth the run itself."""
        path = self.plan.run_dir / name
        try:
            write_changed(path, data)
        except OSError as error:
            self.events.warn(f"{name} was not written: {in_words(error)}.")
        return path

    def _plot(self) -> Path | None:
        path, state = self.plan.run_dir / "loss.png", self.state
        try:
            plot_losses(state.losses, path, self.job.name, state.scores)
        except OSError as error:
            self.events.warn(f"The loss curve was not drawn: {in_words(error)}.")
        return path if path.is_file() else None

    def _newest_sample(self) -> Path | None:
        samples = [s.path for s in planned(self.plan, self._final()[0]) if s.path.exists()]
        return samples[0] if samples else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the machine has too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()  # the CPU and MPS allocators raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and (
        "allocate memory" in text
        or "out of memory" in text
        or "could not create a primitive" in text  # oneDNN's words for it
    )


def out_of_memory_advice(job: TrainingJob) -> str:
    """What to change in a job that ran out of memory, on one line."""
    try:
        plan = make_plan(job)
    except (TrainingError, RuntimeError):
        return f"Out of memory. {advice(job)}"
    return f"Out of memory: {fitting(job, plan.memory, plan.memory_for(SMALLEST_GB))}"


def _peak_memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
