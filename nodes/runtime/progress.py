"""Training events as ComfyUI shows them: the bar, the text on the node, the preview picture."""

import time

import comfy.utils
from PIL import Image

PREVIEW_SIZE = 512
TEXT_SECONDS = 0.5  # between two texts: faster ones only load the line to the browser

PHASES = {
    "latents": "Encoding pictures",
    "text": "Encoding captions",
    "model": "Loading the model",
    "validation": "Measuring held-out pictures",
    "sample": "Making sample pictures",
    "export": "Writing the LoRA",
}


class TrainingProgress:
    """Call it with every event; raises when the user has interrupted.

    Attributes:
        warnings: messages of all warnings so far.
    """

    def __init__(self, node_id: str | None):
        self.warnings: list[str] = []
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1)
        self._step = (0, 1)
        self._text_at = 0.0

    def __call__(self, event: dict) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def _on_plan(self, event: dict) -> None:
        self._step = (event["resumed_from"], event["steps"])
        buckets = ", ".join(f"{size}: {n}" for size, n in event["buckets"].items())
        resumed = f", going on at step {event['resumed_from']}" if event["resumed_from"] else ""
        memory = planned_memory(event)
        about = f", {memory}" if memory else ""
        self._show(f"{event['pictures']} pictures ({buckets}){about}{resumed}", now=True)

    def _on_phase(self, event: dict) -> None:
        if event["name"] == "train":
            self._bar.update_absolute(event["done"], event["total"])
        elif event["name"] in PHASES:
            done, total = event["done"], max(1, event["total"])
            if event["name"] in ("latents", "text"):
                self._bar.update_absolute(done, total)
            self._show(f"{PHASES[event['name']]} {done}/{total}")

    def _on_step(self, event: dict) -> None:
        self._step = (event["step"], event["steps"])
        self._bar.update_absolute(*self._step)
        left = (event["steps"] - event["step"]) * event["seconds"]
        loss = event["average"]
        self._show(
            f"Step {event['step']}/{event['steps']}  loss {loss if loss is None else f'{loss:.4f}'}"
            f"  {event['seconds']:.2f} s/step  {_duration(left)} left",
            now=event["step"] == event["steps"],
        )

    def _on_sample(self, event: dict) -> None:
        picture = sample_picture(event["path"], event["base"])
        self._bar.update_absolute(*self._step, preview=("JPEG", picture, PREVIEW_SIZE))

    def _on_warning(self, event: dict) -> None:
        self.warnings.append(event["message"])

    def _show(self, text: str, now: bool = False) -> None:
        from server import PromptServer

        if not now and time.monotonic() - self._text_at < TEXT_SECONDS:
            return
        self._text_at = time.monotonic()
        server = getattr(PromptServer, "instance", None)
        if server is not None and self._node_id is not None:
            server.send_progress_text(text, self._node_id)


def planned_memory(plan: dict) -> str:
    """What a `plan` event says about memory, in words."""
    memory = plan.get("memory") or {}
    if not memory.get("total_mb"):
        return ""
    twice = f", {memory['computed_twice']} parts computed twice" if memory["computed_twice"] else ""
    streamed = memory.get("streamed")
    away = f", {streamed} parts streamed from main memory" if streamed else ""
    return f"about {memory['total_mb'] / 1024:.1f} GB of memory planned{twice}{away}"


def sample_picture(path: str, base: str | None) -> Image.Image:
    """A sample, to the right of its twin without the LoRA where there is one."""
    pictures = [Image.open(p).convert("RGB") for p in (base, path) if p]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
