"""The ways training says no: one line that names the input and says what to do next."""


class TrainingError(ValueError):
    """Base of every error a user can repair; `kind` is what events and logs call it."""

    kind = "training"


class JobError(TrainingError):
    """A setting of the job is unknown, out of range or contradicts another one."""

    kind = "job"


class DatasetError(TrainingError):
    """The pictures or captions cannot be used."""

    kind = "dataset"


class CheckpointError(TrainingError):
    """The base checkpoint is missing, damaged or not a model this engine trains."""

    kind = "checkpoint"


class StateError(TrainingError):
    """No saved state of the run can be used, or none can be written."""

    kind = "state"


class ExportError(TrainingError):
    """The written LoRA file is not what ComfyUI would load."""

    kind = "export"


class FileError(TrainingError):
    """A LoRA or checkpoint file given to a command cannot be read, or cannot become another."""

    kind = "file"


def quoted(path: object) -> str:
    """A path in quotes as its owner writes it: repr() doubles the backslashes of Windows."""
    return repr(str(path)).replace("\\\\", "\\")
