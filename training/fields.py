"""How the fields of a training job are written down; see job.py."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One section of a job."""

    # built when a job is read: nodes only need the fields, and ComfyUI's start should not wait
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def setting(default: Any, description: str, identity: bool = True, **bounds: Any) -> Any:
    """A field that changes the trained weights."""
    extra = {"identity": identity}
    if isinstance(default, list | dict):
        return Field(
            default_factory=lambda: type(default)(default),
            description=description,
            json_schema_extra=extra,
            **bounds,
        )
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def outside(default: Any, description: str, **bounds: Any) -> Any:
    """A field that may differ between a run and its resumption."""
    return setting(default, description, identity=False, **bounds)
