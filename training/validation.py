"""Pictures kept out of training, and how well the model does on them.

Everything about a measurement is fixed: which pictures, which noise levels, which noise. So two
measurements of one run, and of two runs on the same pictures, differ by their weights alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .errors import DatasetError
from .noise import Draw
from .objective import Objective
from .records import Dataset, DatasetItem
from .rng import generator

if TYPE_CHECKING:
    from .adapter import Adapter
    from .cache import Encoded
    from .job import TrainingJob
    from .plan import Plan
    from .update import Updater


@dataclass(frozen=True)
class Score:
    """Mean squared error of the prediction, without weighting: the same measure for every run.

    Attributes:
        loss: mean over pictures and timesteps.
        by_timestep: the mean at each timestep.
    """

    step: int
    loss: float
    by_timestep: dict[int, float]


# ------------------------------------------------------------------------------- which pictures


def split(dataset: Dataset, job: "TrainingJob") -> tuple[Dataset, tuple[DatasetItem, ...]]:
    """(what is trained on, what is measured on).

    Pictures are held out by a digest of their content: always the same ones, wherever the folder
    lies, in whatever order it is read, whatever the seed.

    Raises:
        DatasetError: too few pictures to hold one out, or none in validation.folder.
    """
    settings = job.validation
    held: tuple[DatasetItem, ...] = ()
    if settings.share:
        digests = sorted({_digest(i) for i in dataset.items if not i.prior}, key=_order)
        if len(digests) < 2:
            raise DatasetError(
                f"Dataset {dataset.name!r} has too few pictures to keep one for validation: add "
                "pictures, or set validation.share to 0."
            )
        out = set(digests[: max(1, round(settings.share * len(digests)))])
        held = tuple(i for i in dataset.items if _digest(i) in out and not i.prior)
        kept = tuple(i for i in dataset.items if _digest(i) not in out or i.prior)
        dataset = replace(dataset, items=kept)
    if settings.folder:
        held += _from_folder(dataset, job)
    chosen: dict[str, DatasetItem] = {}
    for item in sorted(held, key=lambda i: _order(_digest(i))):
        chosen.setdefault(_digest(item), item)
    return dataset, tuple(chosen.values())[: settings.pictures]


def _from_folder(dataset: Dataset, job: "TrainingJob") -> tuple[DatasetItem, ...]:
    from .dataset import open_dataset

    folder = job.validation.folder
    found = open_dataset(job.dataset.model_copy(update={"folder": folder, "items": ()}))
    trained = {_digest(i) for i in dataset.items}
    items = tuple(i for i in found.items if not i.prior and _digest(i) not in trained)
    if not items:
        raise DatasetError(
            f"validation.folder {found.name!r} holds no picture that is not trained on: put "
            "others there."
        )
    return items


def _digest(item: DatasetItem) -> str:
    return item.digest or item.path.name


def _order(digest: str) -> str:
    return hashlib.sha256(f"validation {digest}".encode()).hexdigest()


# -------------------------------------------------------------------------------- measuring


class Validation:
    """The measurements of one run; without held-out pictures it is never due."""

    def __init__(self, plan: "Plan", data: "Encoded"):
        self._plan = plan
        self._data = data
        self._objective = Objective(
            plan.job.objective, plan.prediction, plan.zero_terminal_snr, plan.device
        )

    def is_due(self, step: int, measured: Sequence[tuple[int, float]]) -> bool:
        """Whether to measure after `step` steps (0: the base model), given what is measured."""
        if not self._plan.held_out or any(step == s for s, _ in measured):
            return False
        every = self._plan.job.validation.every_steps
        return step == self._plan.job.schedule.steps or bool(every and step % every == 0)

    @torch.no_grad()
    def measure(
        self,
        adapter: "Adapter",
        updater: "Updater",
        step: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Score:
        """Measure the weights that would be exported now.

        Args:
            progress: called with (done, total) pictures; may raise to stop.
        """
        training = adapter.unet.training
        adapter.train(False)
        count, sums = len(self._plan.held_out), None
        try:
            with updater.averaged():
                for number in range(count):
                    progress(number, count)
                    errors = self._errors(adapter, number)
                    sums = errors if sums is None else sums + errors
        finally:
            adapter.train(training)
        means = (sums / count).tolist()
        times = self._timesteps().tolist()
        loss = sum(means) / len(means)
        return Score(step, loss, dict(zip(times, means, strict=True)))

    def _timesteps(self) -> torch.Tensor:
        """The middles of equal parts of the trained range."""
        settings, count = self._plan.job.objective, self._plan.job.validation.timesteps
        low, high = settings.timestep_min, settings.timestep_max
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return (low + places * (high - low)).long()

    def _errors(self, adapter: "Adapter", number: int) -> torch.Tensor:
        """Error of one picture at every timestep, float64 on the CPU (timesteps,)."""
        plan = self._plan
        item = plan.held_out[number].item
        times, size, errors = self._timesteps(), max(1, plan.job.batch.size), []
        for start in range(0, len(times), size):
            part = times[start : start + size]
            batch = self._data.batch([len(plan.placements) + number] * len(part))
            batch = replace(batch, weights=None)
            shape = batch.latents.shape[1:]
            noise = torch.stack(
                [torch.randn(shape, generator=_noise_of(item, int(time))) for time in part]
            )
            draw = Draw(noise, part).to(plan.device)
            found, target = self._objective.predict(adapter.unet, batch, draw, plan.dtype)
            errors.append(batch.average((found - target).square()).double().cpu())
        return torch.cat(errors)


def _noise_of(item: DatasetItem, timestep: int) -> torch.Generator:
    return generator("validation", _digest(item), timestep)


def measured_on(plan: "Plan") -> str:
    """Digest of what scores of a run depend on beside its weights: only such compare."""
    settings = plan.job.validation
    pictures = [(_digest(p.item), p.item.caption, p.bucket_size) for p in plan.held_out]
    text = json.dumps([settings.timesteps, pictures])
    return hashlib.sha256(text.encode()).hexdigest()
