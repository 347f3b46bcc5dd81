"""The live panel of a training: what it shows, sent as messages and kept for reloads.

A message holds the present figures and the points of the curve since the message before it; the
page asks for everything (`GET /troupe/training`) when it opens and whenever a message is missing.
Trainings work the same with no page open at all.
"""

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths

from .progress import planned_memory

MESSAGE = "troupe.training"
POINTS = 600  # of a curve; beyond that every second one is dropped
SAMPLES = 6  # newest ones that are shown
KEPT = 40  # trainings that are remembered until ComfyUI ends
SEND_SECONDS = 0.25  # between two messages: faster ones only load the line to the browser
ACTIVE = ("preparing", "training", "sampling")
PHASES = {
    "latents": "Encoding pictures",
    "text": "Encoding captions",
    "model": "Loading the model",
    "validation": "Measuring held-out pictures",
    "sample": "Making sample pictures",
    "export": "Writing the LoRA",
}


@dataclass
class Panel:
    """What the panel of one node shows.

    Attributes:
        run: id of this execution; another one of the same node replaces it.
        prompt_id, next_prompt_id: the prompt that trains, and the one that goes on after a pause.
        node, workflow: ids of the node and of the workflow it is in ("" from a script).
        status: preparing, training, sampling, paused, stopped, done or failed.
        figures: step, steps, loss, average, learning_rate, seconds, left, memory_mb, skipped.
        curve: [step, average loss, learning rate], thinned to POINTS.
        validation: [step, loss].
    """

    node: str
    workflow: str = ""
    name: str = ""
    prompt_id: str = ""
    next_prompt_id: str = ""
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "preparing"
    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    curve: list[list] = field(default_factory=list)
    validation: list[list] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pause: str = ""  # "", "hold" or "yield": what the page asked for
    number: int = 0  # of the newest message
    _new: list[list] = field(default_factory=list)
    _stride: int = 1
    _sent_at: float = 0.0
    _pace: list[float] = field(default_factory=list)

    # --------------------------------------------------------------------------------- telling

    def whole(self) -> dict[str, Any]:
        """Everything, for a page that has just opened."""
        return {**self._common(), "curve": self.curve, "validation": self.validation}

    def _common(self) -> dict[str, Any]:
        names = ("run", "node", "workflow", "name", "status", "text", "figures", "plan", "number")
        names += ("prompt_id", "next_prompt_id")
        common = {name: getattr(self, name) for name in names}
        return {**common, "samples": self.samples, "warnings": self.warnings[-3:]}

    def send(self, now: bool = True) -> None:
        """Tell every open page, at most every SEND_SECONDS unless `now`."""
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is None or (not now and time.monotonic() - self._sent_at < SEND_SECONDS):
            return
        self._sent_at = time.monotonic()
        self.number += 1
        points, self._new = self._new, []
        message = {**self._common(), "points": points, "validation": self.validation}
        server.send_sync(MESSAGE, message)

    # ------------------------------------------------------------------------------- listening

    def on_event(self, event: dict) -> None:
        """Take in one event of the training program."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def end(self, status: str, text: str = "") -> None:
        """The training has ended, one way or another."""
        self.status, self.text = status, text
        self.figures["left"] = 0
        self.send()

    def _on_plan(self, event: dict) -> None:
        self.plan = {k: v for k, v in event.items() if k not in ("event", "time", "run", "digest")}
        self.figures |= {"step": event["resumed_from"], "steps": event["steps"]}
        buckets = ", ".join(f"{size}: {n}" for size, n in event["buckets"].items())
        resumed = event["resumed_from"]
        said = [f"{event['pictures']} pictures ({buckets})", planned_memory(event)]
        said += [f"going on at step {resumed}"] if resumed else []
        self.text = ", ".join(filter(None, said))
        self.send()

    def _on_phase(self, event: dict) -> None:
        phase = PHASES.get(event["name"], event["name"])
        if event["name"] == "train":
            self.status, self.text = "training", ""
        elif event["name"] == "sample":
            self.status, self.text = "sampling", f"{phase} {event['done']}/{event['total']}"
        elif self.status != "training":
            self.text = f"{phase} {event['done']}/{event['total']}"
        self.send(now=event["name"] == "train")

    def _on_step(self, event: dict) -> None:
        self.status, self.text = "training", ""
        self._pace = [*self._pace[-19:], event["seconds"]]
        seconds = sorted(self._pace)[len(self._pace) // 2]
        skipped = self.figures.get("skipped", 0) + (event["loss"] is None)
        names = ("step", "steps", "loss", "average", "learning_rate", "memory_mb")
        self.figures = {name: event.get(name) for name in names}
        left = (event["steps"] - event["step"]) * seconds
        self.figures |= {"seconds": seconds, "left": left, "skipped": skipped}
        if event["step"] % self._stride == 0 and event["average"] is not None:
            point = [event["step"], event["average"], event["learning_rate"]]
            self.curve.append(point)
            self._new.append(point)
        if len(self.curve) > POINTS:
            self._stride *= 2
            self.curve = self.curve[::2]
        self.send(now=event["step"] == event["steps"])

    def _on_sample(self, event: dict) -> None:
        files = {"picture": event["path"], "base": event["base"]}
        shown = {key: _view(path) for key, path in files.items() if path}
        if shown.get("picture"):
            sample = {"step": event["step"], "prompt": event["prompt"], **shown}
            self.samples = [sample, *self.samples][:SAMPLES]
            self.send()

    def _on_validation(self, event: dict) -> None:
        if event.get("loss") is not None:
            self.validation = [*self.validation, [event.get("step", 0), event["loss"]]][-POINTS:]
            self.send()

    def _on_warning(self, event: dict) -> None:
        self.warnings.append(event["message"])
        self.send(now=False)


def _view(path: str) -> dict[str, str] | None:
    """How the page asks ComfyUI's /view for a file below its output folder."""
    try:
        output = Path(folder_paths.get_output_directory()).resolve()
        below = Path(path).resolve().relative_to(output)
    except ValueError:
        return None
    return {"filename": below.name, "subfolder": below.parent.as_posix(), "type": "output"}


class Panels:
    """All panels by (workflow, node); thread-safe as far as it needs: values are replaced whole."""

    def __init__(self) -> None:
        self._panels: dict[tuple[str, str], Panel] = {}

    def open(self, panel: Panel) -> Panel:
        """Show a new training in place of the node's earlier one."""
        key = (panel.workflow, panel.node)
        panels = {k: v for k, v in self._panels.items() if k != key}
        while len(panels) >= KEPT:
            panels.pop(next(iter(panels)))
        self._panels = {**panels, key: panel}
        panel.send()
        return panel

    def all(self) -> list[Panel]:
        """Oldest first."""
        return list(self._panels.values())

    def find(self, run: str) -> Panel | None:
        """The panel of one execution, None if it is unknown or has been replaced."""
        return next((p for p in self.all() if p.run == run), None)


PANELS = Panels()
