"""Training events as ComfyUI itself shows them: the bar. The panel tells the rest."""

import comfy.utils
from PIL import Image

BARS = ("latents", "text", "train")  # phases that are long enough to move the bar


class TrainingProgress:
    """Call it with every event; raises when the user has interrupted.

    Attributes:
        warnings: messages of all warnings so far.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._bar = comfy.utils.ProgressBar(1)

    def __call__(self, event: dict) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def _on_phase(self, event: dict) -> None:
        if event["name"] in BARS:
            self._bar.update_absolute(event["done"], max(1, event["total"]))

    def _on_step(self, event: dict) -> None:
        self._bar.update_absolute(event["step"], event["steps"])

    def _on_warning(self, event: dict) -> None:
        self.warnings.append(event["message"])


def planned_memory(plan: dict) -> str:
    """What a `plan` event says about memory, in words."""
    memory = plan.get("memory") or {}
    if not memory.get("total_mb"):
        return ""
    twice = f", {memory['computed_twice']} parts computed twice" if memory["computed_twice"] else ""
    streamed = memory.get("streamed")
    away = f", {streamed} parts streamed from main memory" if streamed else ""
    gigabytes = max(0.1, memory["total_mb"] / 1024)
    return f"about {gigabytes:.1f} GB of memory planned{twice}{away}"


def sample_picture(path: str, base: str | None) -> Image.Image:
    """A sample, to the right of its twin without the LoRA where there is one."""
    pictures = [Image.open(p).convert("RGB") for p in (base, path) if p]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def duration(seconds: float) -> str:
    """Seconds as people say them: "2 h 5 min", "3 min 20 s", "12 s"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
