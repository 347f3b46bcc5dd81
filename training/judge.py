"""Validation while a run goes on: measure when it is due, tell the world, keep the best weights."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .adapter import Adapter
from .cache import Encoded
from .events import Events
from .plan import Plan
from .state import State
from .tensorfile import DamagedFile, read_tensors, write_tensors
from .update import Updater
from .validation import Score, Validation, measured_on

log = logging.getLogger(__name__)

BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Best:
    """The weights with the lowest validation loss so far, ready to use."""

    step: int
    loss: float
    weights: dict[str, torch.Tensor]


class Judge:
    """Decides which weights of a run are the best.

    The best ones lie in a file of their own beside the saved states, which come and go.
    """

    def __init__(self, plan: Plan, events: Events):
        self._plan = plan
        self._events = events
        self._path = plan.run_dir / "states" / BEST_FILE
        self._about = {"digest": plan.digest, "measured_on": measured_on(plan)}
        self._lowest: float | None = None  # read from the file when first asked for

    def recall(self, state: State) -> None:
        """Forget scores of other pictures than today's."""
        if state.measured_on != self._about["measured_on"]:
            state.scores, state.measured_on = [], self._about["measured_on"]

    def measure(
        self,
        state: State,
        adapter: Adapter,
        updater: Updater,
        data: Encoded,
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Measure the weights after `state.step` if that is due.

        Args:
            progress: called with ("validation", done, total); may raise to stop.
        """
        validation = Validation(self._plan, data)
        if not validation.is_due(state.step, state.scores):
            return
        score = validation.measure(
            adapter, updater, state.step, lambda done, total: progress("validation", done, total)
        )
        state.scores.append((score.step, score.loss))
        better = self._keep(score, adapter, updater) if state.step else False
        self._events.emit(
            "validation",
            step=score.step,
            loss=score.loss,
            by_timestep={str(t): loss for t, loss in score.by_timestep.items()},
            pictures=len(self._plan.held_out),
            best=better,
        )

    def _keep(self, score: Score, adapter: Adapter, updater: Updater) -> bool:
        if self._lowest is None:
            found = self._read()
            self._lowest = found[1] if found else math.inf
        if not score.loss < self._lowest:
            return False
        self._lowest = score.loss
        with updater.averaged():
            weights = {k: v.clone() for k, v in adapter.state().items()}
        about = {**self._about, "step": score.step, "loss": score.loss}
        try:
            write_tensors(self._path, weights, {"troupe.best": json.dumps(about)})
        except OSError as error:
            self._events.warn(f"The best weights, of step {score.step}, cannot be saved: {error}.")
        return True

    def best(self) -> Best | None:
        """The best weights so far, None if nothing was measured."""
        found = self._read()
        return Best(*found) if found else None

    def _read(self) -> tuple[int, float, dict[str, torch.Tensor]] | None:
        if not self._path.exists() or not self._plan.held_out:
            return None
        try:
            tensors, metadata = read_tensors(self._path, patient=True)
            about = json.loads(metadata["troupe.best"])
        except (DamagedFile, KeyError, ValueError) as error:
            log.warning("The best weights are damaged and are found anew: %s", error)
            return None
        if {k: about.get(k) for k in self._about} != self._about:  # of other pictures
            return None
        return about["step"], about["loss"], tensors


def final_weights(state: State, judge: Judge, wanted: bool) -> tuple[int, dict]:
    """(step, weights) of what a finished run gives to the world."""
    best = judge.best() if wanted else None
    return (best.step, best.weights) if best else (state.step, state.weights)
