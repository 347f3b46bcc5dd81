"""The curves of a run for Weights & Biases; only where a job asks for them."""

from typing import TYPE_CHECKING, Any

from .board import SCALARS
from .errors import JobError
from .metadata import PRIVATE
from .packages import why_not

if TYPE_CHECKING:
    from .plan import Plan


class WandbLog:
    """Listens to the events of a run and logs them; a continued run goes on in the same curves.

    Raises:
        JobError: the package is missing; also from the first event, if it cannot start.
    """

    def __init__(self, plan: "Plan"):
        try:
            import wandb
        except Exception as error:  # a broken package may raise anything
            if not (told := why_not(error)):
                raise
            raise JobError(f"Setting 'saving.wandb' needs wandb. {told}") from None
        self._package, self._plan, self._run = wandb, plan, None

    def _start(self):
        job, about = self._plan.job, {"id": self._plan.digest[:16], "dir": str(self._plan.run_dir)}
        about["config"] = job.model_dump(mode="json", exclude=PRIVATE)
        # curves only: neither code, nor what is printed, which here are the events
        quiet = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
        about |= {"mode": job.saving.wandb, "settings": self._package.Settings(**quiet)}
        try:
            run = self._package.init(project="troupe", name=job.name, resume="allow", **about)
        except Exception as error:  # its own kinds differ between versions
            raise JobError(
                f"Setting 'saving.wandb': it cannot start ({' '.join(str(error).split())[:200]}): "
                "run 'wandb login', or choose offline."
            ) from None
        run.define_metric("*", step_metric="step")  # its own count would not go back
        return run

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Take in one event."""
        if event == "plan" and fields["resumed_from"] < fields["steps"]:
            self._run = self._start()
        if self._run is not None and event == "step":
            values = {label: fields.get(name) for name, label in SCALARS.items()}
            known = {k: v for k, v in values.items() if isinstance(v, int | float)}
            self._run.log({"step": fields["step"], **known})
        elif self._run is not None and event == "validation" and fields.get("loss") is not None:
            self._run.log({"step": fields["step"], "loss/validation": fields["loss"]})

    def close(self) -> None:
        """Write what is left."""
        if self._run is not None:
            self._run.finish()
