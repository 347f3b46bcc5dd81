"""The curves of a run for TensorBoard, beside its other files; only where a job asks for them."""

from pathlib import Path
from typing import Any

from .errors import JobError
from .packages import why_not

FOLDER = "tensorboard"
SCALARS = {  # of a step event: name in TensorBoard
    "loss": "loss/step",
    "average": "loss/mean",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient/length",
    "seconds": "speed/seconds_per_step",
    "memory_mb": "memory/mb",
}


class Board:
    """Listens to the events of a run and writes them where TensorBoard finds them.

    Args:
        run_dir: folder of the run.

    Raises:
        JobError: the package is missing.
    """

    def __init__(self, run_dir: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # a broken package may raise anything
            if not (told := why_not(error)):
                raise
            raise JobError(f"Setting 'saving.tensorboard' needs tensorboard. {told}") from None
        self._make = lambda step: SummaryWriter(str(run_dir / FOLDER), purge_step=step)
        self._writer = None

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Take in one event."""
        if event == "plan":  # what an earlier part of the run wrote beyond this step is void
            self._writer = self._make(fields["resumed_from"] + 1)
        if self._writer is None:
            return
        if event == "step":
            for name, label in SCALARS.items():
                if isinstance(value := fields.get(name), int | float):
                    self._writer.add_scalar(label, value, fields["step"])
        elif event == "validation" and fields.get("loss") is not None:
            self._writer.add_scalar("loss/validation", fields["loss"], fields["step"])
        elif event in ("checkpoint", "done", "stopped"):
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
