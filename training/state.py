"""Saved states of a run: whole or not there, the newest good one wins, one process per run."""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .adapter import Adapter
from .errors import StateError
from .optimizer_state import pack_update, unpack_update
from .tensorfile import DamagedFile, read_tensors, write_tensors
from .update import Updater, UpdateState
from .wholefile import FileInUse, discard, in_words

log = logging.getLogger(__name__)

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
VERSION = 2


@dataclass
class State:
    """Everything a run needs to go on as if it had never stopped.

    Batches, noise, timesteps, dropout and learning rate are functions of (seed, step): see rng.py.

    Attributes:
        step: finished steps.
        adapter: `Adapter.state()`.
        update: what the optimizer and the running mean need to go on.
        average: those tensors of `adapter` that are others in use than in training.
        losses: loss of every finished step; NaN for a skipped one.
        scores: (step, validation loss), in order; measured_on: what they depend on beside weights.
        skipped: number of skipped steps.
        seconds: time spent in steps, over all parts of the run.
        started: when the run began, seconds since 1970.
        threads: of the processor it began with, 0 for unknown; see `be_repeatable`.
    """

    step: int = 0
    adapter: dict[str, torch.Tensor] = field(default_factory=dict)
    update: UpdateState = field(default_factory=UpdateState)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    measured_on: str = ""
    skipped: int = 0
    seconds: float = 0.0
    started: float = 0.0
    threads: int = 0

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The adapter to use: for files, samples and validation."""
        return {**self.adapter, **self.average}


class States:
    """The states of one run on disk.

    Args:
        run_dir: folder of the run; states lie in `states/` below it.
        digest: identity of the run; states of another one are not touched.
        keep: how many are kept.
    """

    def __init__(self, run_dir: Path, digest: str, keep: int):
        self._folder = run_dir / "states"
        self._digest = digest
        self._keep = keep

    def files(self) -> list[Path]:
        """Files of states, newest first."""
        return sorted(self._folder.glob("state-*.safetensors"), reverse=True)

    def save(self, state: State) -> Path:
        """Write a state, then drop the oldest beyond `keep`.

        On a full disk the older states give way, all but the newest.

        Raises:
            OSError: the disk is full or not writable; the newest state is untouched.
        """
        tensors, update = pack_update(state.update)
        tensors |= {f"adapter/{k}": v for k, v in state.adapter.items()}
        tensors |= {f"average/{k}": v for k, v in state.average.items()}
        tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
        facts = {
            "version": VERSION,
            "digest": self._digest,
            "step": state.step,
            "skipped": state.skipped,
            "seconds": state.seconds,
            "started": state.started,
            "threads": state.threads,
            "update": update,
            "scores": state.scores,
            "measured_on": state.measured_on,
        }
        path = self._folder / f"state-{state.step:08d}.safetensors"
        try:
            write_tensors(path, tensors, {"troupe.state": json.dumps(facts)})
        except OSError as error:
            spare = self.files()[1:]
            if error.errno not in FULL_DISK or not spare:
                raise
            _drop(spare)
            write_tensors(path, tensors, {"troupe.state": json.dumps(facts)})
        _drop(self.files()[self._keep :])
        return path

    def finish(self, state: State) -> None:
        """Keep of a finished run what a new export needs, and give the rest of the disk back."""
        if state.update.memory:
            try:
                self.save(replace(state, update=UpdateState()))
            except OSError as error:  # the whole state serves as well
                log.warning("The last state is kept at its full size: %s", in_words(error))
        _drop(self.files()[1:])

    def newest(self, warn: Callable[[str], None]) -> State | None:
        """The newest good state, or None; damaged files are reported and removed.

        Raises:
            StateError: a state was written by a newer version of this program, or cannot be read
                because another program has it open.
        """
        _drop(self._folder.glob("*.part"))
        for path in self.files():
            try:
                return self._read(path)
            except DamagedFile as error:
                warn(f"A saved state is damaged, an older one is used ({error}).")
                _drop([path])
            except FileInUse as error:  # it is newer than the others, and nothing is wrong with it
                raise StateError(str(error)) from None
        return None

    def _read(self, path: Path) -> State:
        tensors, metadata = read_tensors(path, patient=True)
        facts = json.loads(metadata.get("troupe.state", "{}"))
        if facts.get("version", 0) > VERSION:
            raise StateError(f"{path.name} was saved by a newer version: update the pack.")
        if facts.get("version") != VERSION or facts.get("digest") != self._digest:
            raise DamagedFile(f"{path.name} is not a state of this run")
        parts: dict[str, dict[str, torch.Tensor]] = {"adapter": {}, "average": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in parts:
                parts[kind][rest] = tensor
        return State(
            step=facts["step"],
            adapter=parts["adapter"],
            average=parts["average"],
            update=unpack_update(tensors, facts["update"]),
            losses=tensors["losses"].tolist(),
            scores=[(step, loss) for step, loss in facts["scores"]],
            measured_on=facts["measured_on"],
            skipped=facts["skipped"],
            seconds=facts["seconds"],
            started=facts["started"],
            threads=facts.get("threads", 0),
        )


def _drop(files: Iterable[Path]) -> None:
    """Remove what is not needed any more; what another program has open goes the next time."""
    for path in files:
        if not discard(path):
            log.info("%s is open elsewhere and is removed the next time.", path.name)


def capture(state: State, adapter: Adapter, updater: Updater) -> State:
    """`state` with the adapter's and the updater's present tensors (not copied)."""
    state.adapter = adapter.state()
    state.update = updater.state()
    state.average = {}
    if updater.averages:
        with updater.averaged():
            used = {k: v.clone() for k, v in adapter.state().items()}
        state.average = {k: v for k, v in used.items() if not torch.equal(v, state.adapter[k])}
    return state


def restore(state: State, adapter: Adapter, updater: Updater) -> None:
    """Put a state back into an adapter and an updater made for the same job.

    Raises:
        StateError: the state belongs to another adapter or optimizer.
    """
    if set(state.adapter) != set(adapter.state()):
        raise StateError("The saved state belongs to another adapter: remove the run's folder.")
    if state.update.memory:
        adapter.load_state(state.adapter)
        updater.load(state.update)
    else:  # a finished run keeps what is used only
        adapter.load_state(state.weights)
        updater.retire()


class RunLock:
    """Keeps a second process out of a run folder; ends with the process, however that ends."""

    def __init__(self, run_dir: Path):
        self._path = run_dir / "lock"
        self._file = None

    def __enter__(self) -> "RunLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "a+b")
        try:
            _lock(self._file)
        except OSError as error:
            if error.errno not in HELD:  # a network disk without locks
                log.warning("The run's folder cannot be locked: train it in one process only.")
                return self
            self._file.close()
            raise StateError(
                f"Run {self._path.parent.name!r} is being trained by another process: "
                "wait for it or stop it."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _lock(file) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
